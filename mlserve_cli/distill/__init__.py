"""Distillation: a smaller network learns from the answers of a trained one."""

from mlserve_cli.distill.step import DistillStep

__all__ = ["DistillStep"]
