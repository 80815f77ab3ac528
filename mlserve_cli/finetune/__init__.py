"""Fine-tuning: a package's network is trained further, and keeps its shape."""

from mlserve_cli.finetune.step import TrainStep

__all__ = ["TrainStep"]
