"""Small helpers over an ONNX graph: make one from torch, clean it, compare it with its source."""
