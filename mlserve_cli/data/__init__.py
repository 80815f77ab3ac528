"""Data files as batches of tensors: what `--calibration`, `--data` and `predict` read."""
