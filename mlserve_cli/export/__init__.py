"""Export: a model definition or a ready ONNX file → a package, checked against its source."""
