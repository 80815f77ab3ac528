"""Live servers of any make: what they speak, what to ask them, and how to read what they say."""
