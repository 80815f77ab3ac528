"""Quantization-aware training: a short fine-tuning in which every rounding is felt.

The prepared ONNX graph itself is trained, computed by torch, with the weights and tensors rounded
that the writer will write in 8 bits, and with gradients passed straight through the rounding
(Bengio et al., 2013; Jacob et al., 2018). What it learns, weights and ranges, is then written as
any other static int8.
"""
