"""MLPerf's own LoadGen asks packages in process, or live servers."""
