"""Structured pruning: whole channels go, the network becomes smaller and is trained again."""

from mlserve_cli.prune.step import PruneStep

__all__ = ["PruneStep"]
