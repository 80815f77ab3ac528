"""A few rows on their way: inputs by name, and what the model should have answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlserve_cli.runtime.tensors import Array, Tensors, rows


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` fit the model's signature. `targets`, (rows, …), is None where the data has none.

    Targets are class numbers (int64) where the package has labels or the values are whole numbers,
    float64 for other numbers, and `BYTES` for text that is no label.
    """

    inputs: Tensors
    targets: Array | None = None

    @property
    def size(self) -> int:
        """The number of rows."""
        return rows(self.inputs)

    def parts(self, limit: int) -> Iterator[Batch]:
        """The same rows in batches of at most `limit`."""
        if self.size <= limit:
            yield self
            return
        for start in range(0, self.size, limit):
            window = slice(start, start + limit)
            yield Batch(
                {name: array[window] for name, array in self.inputs.items()},
                None if self.targets is None else self.targets[window],
            )
