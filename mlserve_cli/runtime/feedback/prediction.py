"""One prediction as it is remembered: a flat tuple of numbers and texts.

The garbage collector takes its eyes off such a tuple when it first meets it, and off nested ones
only in several rounds. As objects, a hundred thousand predictions held the event loop up for 60 ms
whenever all of them were looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from .decisions import Truth

Packed = tuple[Any, ...]
"""serial, alias, rows, bytes, number of answers; of each answer its source and its decision of each
row; and, once there is one, the truth of each row."""

_HEAD = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction, unpacked.

    serial: no other prediction has it. size: in bytes, about. answers: (number of the source, a
    decision for each row); the first is the answer that was sent. truths: one a row, or none yet.
    """

    serial: int
    alias: str
    rows: int
    size: int
    answers: tuple[tuple[int, tuple[Any, ...]], ...]
    truths: tuple[Truth | None, ...] = ()

    def packed(self) -> Packed:
        """As it is kept."""
        cells: list[Any] = []
        for number, decided in self.answers:
            cells += (number, *decided)
        head = (self.serial, self.alias, self.rows, self.size, len(self.answers))
        return (*head, *cells, *self.truths)

    def answered(self, number: int, decided: tuple[Any, ...], size: int) -> Prediction:
        """The same with one more answer."""
        return replace(self, answers=(*self.answers, (number, decided)), size=self.size + size)

    def known(self, row: int, truth: Truth, size: int) -> Prediction:
        """The same with the truth of a row; size: what that takes more."""
        truths = self.truths or (None,) * self.rows
        told = (*truths[:row], truth, *truths[row + 1 :])
        return replace(self, truths=told, size=self.size + size)


def pack(
    serial: int, alias: str, rows: int, size: int, number: int, decided: tuple[Any, ...]
) -> Packed:
    """A prediction with one answer."""
    return (serial, alias, rows, size, 1, number, *decided)


def unpack(packed: Packed) -> Prediction:
    """The reverse of `Prediction.packed`."""
    serial, alias, rows, size, count = packed[:_HEAD]
    ends = range(_HEAD, _HEAD + count * (rows + 1) + 1, rows + 1)
    answers = tuple((packed[begin], packed[begin + 1 : end]) for begin, end in pairwise(ends))
    return Prediction(serial, alias, rows, size, answers, packed[ends[-1] :])
