"""What ONNX Runtime really makes of a package: kernels, times, reasons, errors."""
