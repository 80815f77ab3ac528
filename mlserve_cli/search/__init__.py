"""Candidates, what was measured of them, and which of them to keep. It runs no model itself."""
