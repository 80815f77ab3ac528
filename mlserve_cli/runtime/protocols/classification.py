"""The classification extension: an output as its best classes, written as text.

Triton calls them `score:index` or `score:index:label`. The score is the shortest text that reads
back as the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InvalidRequest
from ..tensors import Array


def classify(array: Array, k: int, labels: Sequence[str] = ()) -> Array:
    """The `k` largest values of each row, best first, as `BYTES` of shape (rows, k).

    array: (rows, …); all that belongs to a row counts as its classes. A `k` over their number
    means all of them. Of equal values the one of the lower index comes first, and NaN last.
    labels: used where there is one for each class. Raises `InvalidRequest` for text, and for a `k`
    that is not positive.
    """
    if k < 1:
        raise InvalidRequest(f"'classification' is {k}, and it must be a number of classes above 0")
    if array.dtype.kind not in "biuf":
        raise InvalidRequest(
            "classes can be given for numbers only, and this output holds text",
            hint="leave 'classification' out and read the tensor",
        )
    rows = array.shape[0] if array.ndim else 1
    count = math.prod(array.shape[1:])
    scores = array.reshape(rows, count)
    best = _order(scores)[:, : min(k, count)]
    names = labels if len(labels) == count else ()
    written: Array = np.empty(best.shape, dtype=np.object_)
    for row, indices in enumerate(best.tolist()):
        for place, index in enumerate(indices):
            value = scores[row, index]
            text = f"{int(value) if array.dtype.kind == 'b' else value!s}:{index}"
            written[row, place] = (f"{text}:{names[index]}" if names else text).encode()
    return written


def _order(scores: Array) -> Array:
    """Indices of each row's values from the largest to the smallest, stable, NaN last."""
    if scores.dtype.kind == "f":
        return np.argsort(-scores.astype(np.float64), axis=1, kind="stable")
    # Negating would wrap around for the smallest number of a type, and for all unsigned ones.
    backwards: Array = np.argsort(scores[:, ::-1], axis=1, kind="stable")[:, ::-1]
    best: Array = scores.shape[1] - 1 - backwards
    return best
