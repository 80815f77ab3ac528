"""Calibration: from real rows to the range that each tensor's 8 bits cover, in bounded memory."""
