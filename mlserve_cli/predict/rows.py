"""Rows as Python values → tensors; a row that cannot be one is set aside, with its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mlserve_cli.data.fit import fit
from mlserve_cli.data.rows import Assembler
from mlserve_cli.errors import DataError
from mlserve_cli.predict.blocks import Prepared, Reject
from mlserve_cli.runtime.errors import RequestError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import Tensors


def prepare(
    values: Sequence[Any],
    assembler: Assembler,
    manifest: Manifest,
    *,
    places: Sequence[int] | None = None,
) -> Prepared:
    """Values of rows → the model's inputs. `places` are theirs in the block, 0, 1, 2 … if None.

    All together first, which is fast; one by one where that fails, to find the bad ones; and each
    as a group of its own where they only do not go together, as lists of several lengths.
    """
    prepared = Prepared()
    places = range(len(values)) if places is None else places
    if not values:
        return prepared
    try:
        prepared.groups = [_tensors(values, assembler, manifest)]
    except (RequestError, DataError):
        pass
    else:
        prepared.rows = list(places)
        return prepared
    alone: list[Tensors] = []
    fine: list[int] = []
    for place, value in zip(places, values, strict=True):
        try:
            alone.append(_tensors([value], assembler, manifest))
        except (RequestError, DataError) as error:
            prepared.rejects.append(Reject(place, reason(error)))
        else:
            fine.append(place)
    prepared.rows = fine
    good = dict(zip(places, values, strict=True))
    if fine:
        try:
            together = _tensors([good[row] for row in fine], assembler, manifest)
        except (RequestError, DataError):
            prepared.groups = alone
        else:
            prepared.groups = [together]
    return prepared


def _tensors(values: Sequence[Any], assembler: Assembler, manifest: Manifest) -> Tensors:
    return fit(assembler.tensors(list(values)), manifest, where="its values")


def reason(error: RequestError | DataError) -> str:
    """Why a row that was tried alone is rejected: the message without its number, and the hint."""
    text = re.sub(r"^row 0(: | )", "", error.message).removesuffix(".")
    return f"{text} ({error.hint})" if error.hint else text
