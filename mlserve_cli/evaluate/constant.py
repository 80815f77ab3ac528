"""What a model without any knowledge would reach: it always answers the commonest class."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mlserve_cli.runtime.tensors import Array, Tensors


@dataclass(frozen=True, slots=True)
class Constant:
    """The commonest class, and the share of the rows, 0 … 1, that always answering it gets."""

    label: str
    share: float

    def facts(self) -> dict[str, Any]:
        """The class and the share, for the evidence and `--json`."""
        return {"answer": self.label, "share": self.share}


@dataclass(slots=True)
class Classes:
    """How often each class is the target. Targets that are not one class a row are counted out."""

    _counts: Counter[int | bytes] = field(default_factory=Counter)
    _are_classes: bool = True

    def take(self, targets: Array | Tensors) -> None:
        """Count a batch: (batch,) or (batch, 1) whole numbers, booleans or text."""
        if (
            isinstance(targets, dict)
            or targets.dtype.kind not in "iubfO"
            or targets.size != targets.shape[0]
            or (targets.dtype.kind == "f" and not (targets == targets.round()).all())
        ):
            self._are_classes = False
        if isinstance(targets, dict) or not self._are_classes:
            return
        whole = targets.astype(int) if targets.dtype.kind == "f" else targets
        self._counts.update(whole.reshape(-1).tolist())

    def constant(self) -> Constant | None:
        """The commonest of them; None where the targets are no classes."""
        if not self._are_classes or not self._counts:
            return None
        value, count = self._counts.most_common(1)[0]
        if isinstance(value, bytes):
            label = value.decode("utf-8", "replace")
        else:
            label = f"class {int(value)}"
        return Constant(label, count / self._counts.total())
