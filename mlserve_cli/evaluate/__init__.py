"""How good a package is: a metric over cases it never saw, with its interval, and what was lost."""
