"""Bring packages to a running server, and shift its traffic, through its admin API."""
