"""A user's own engine, held to what `Engine` asks for: its answers are the caller's to keep."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensors import Tensors
from .engine import Engine


class Owned:
    """Runs an engine and copies an answer that lies in the memory of its inputs.

    That memory is a buffer which the next batch is written into, so that somebody else's rows would
    be sent. Our own engines answer in memory of their own; nobody can say that of every other.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.inputs = engine.inputs
        self.outputs = engine.outputs

    def run(self, tensors: Tensors) -> Tensors:
        """Run a batch."""
        outputs: Any = self._engine.run(tensors)
        if not isinstance(outputs, dict):
            return outputs  # type: ignore[no-any-return]  # who splits it says what is wrong
        given = tuple(tensors.values())
        return {
            name: array.copy()
            if isinstance(array, np.ndarray)
            and any(np.may_share_memory(array, each) for each in given)
            else array
            for name, array in outputs.items()
        }

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
