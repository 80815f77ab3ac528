"""Training: one loop, and what a package keeps so that training can go on.

Pruning's fine-tuning and distillation share the loop, and a sample may train with it from scratch.
"""
