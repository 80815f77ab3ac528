"""The server folder: the packages, a readable server around them, and all it needs to run alone."""
