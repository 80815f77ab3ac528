"""Protocols are thin skins over the data plane: bytes → tensors → bytes, and nothing else."""
