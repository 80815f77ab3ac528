"""No declared processing: a row is `{"input name": nested lists}`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import json_text
from ..errors import InvalidRequest
from ..manifest import Manifest
from ..tensors import Tensors, TensorSpec
from . import multipart, payload
from .cells import to_array
from .outputs import plain
from .processor import Payload

_JSON = 'application/json: one row, a list of rows, or {"rows": […]}'


class PlainReader:
    """Rows of nested lists by input name; the bare value where the model has one input."""

    def __init__(self, manifest: Manifest) -> None:
        self._specs = manifest.inputs

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """Split JSON into rows."""
        kind = payload.kind_of(body, content_type, otherwise="json")
        if kind not in ("json", "text"):
            raise payload.refuse(kind, allowed=_JSON)
        return payload.json_rows(body)

    def form(self, fields: dict[str, str | bytes]) -> list[Any]:
        """One row; a field's value is JSON, or text where it is none."""
        texts = multipart.only_text(fields)
        return [{name: payload.value_of(text) for name, text in texts.items()}]

    def tensors(self, rows: list[Any]) -> Tensors:
        """Stack the rows of every input."""
        named = [self._named(row, number) for number, row in enumerate(rows)]
        return {
            spec.name: self._stack(spec, [row[spec.name] for row in named]) for spec in self._specs
        }

    def example(self, inputs: Tensors) -> Payload | None:
        """The first row as JSON; a model with a fixed batch takes all of it."""
        row = {
            spec.name: plain(inputs[spec.name][:1])[0]
            if spec.has_batch
            else plain(inputs[spec.name])
            for spec in self._specs
        }
        return Payload(json_text.encode(row, finite=False), "application/json")

    def _named(self, row: Any, number: int) -> dict[str, Any]:
        names = [spec.name for spec in self._specs]
        if not isinstance(row, dict):
            if len(names) == 1:
                return {names[0]: row}
            raise InvalidRequest(
                f"row {number} is {payload.show(row)}, and it must be an object with the inputs "
                + ", ".join(names)
            )
        for name in names:
            if name not in row:
                raise InvalidRequest(
                    f"row {number} has no '{name}'", hint=f"a row holds {', '.join(names)}"
                )
        for name in row:
            if name not in names:
                raise InvalidRequest(
                    f"row {number} has '{name}', which is no input of the model",
                    hint=f"a row holds {', '.join(names)}",
                )
        return row

    def _stack(self, spec: TensorSpec, values: list[Any]) -> np.ndarray[Any, Any]:
        # A model with a fixed first dimension takes its rows at once; one row is then all of it.
        where = f"input '{spec.name}'"
        if not spec.has_batch:
            if len(values) != 1:
                raise InvalidRequest(f"{where} takes one row a request, and got {len(values)}")
            return to_array(values[0], spec.datatype, where=where)
        array = to_array(values, spec.datatype, where=where)
        # Beside a table's habit of bare numbers stands the matrix of one column: (batch, 1).
        if array.ndim == 1 and spec.shape[1:] == (1,):
            return array.reshape(-1, 1)
        return array
