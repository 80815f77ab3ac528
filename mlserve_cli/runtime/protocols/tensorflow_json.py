"""Tensors as TensorFlow Serving's REST API writes them, in rows or in columns.

    {"instances": [2, 3, 4]}              rows: a value or list each, where the model has one input
    {"instances": [{"a": 1, "b": 2}]}     rows: an object each, by the names of all inputs
    {"inputs": [[2], [3]]}                columns: the tensor, where the model has one input
    {"inputs": {"a": […], "b": […]}}      columns: the tensors by name

`{"b64": "…"}` stands for bytes wherever an element of a `BYTES` tensor may stand, and an output
whose name ends in `_bytes` is sent that way. NaN and Infinity are bare tokens both ways.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from .. import json_text
from ..errors import InvalidRequest
from ..manifest import Manifest
from ..processing.cells import flatten, to_array, to_bytes
from ..processing.payload import show
from ..tensors import Array, Tensors, TensorSpec, rows

Form = Literal["row", "column"]

DEFAULT_SIGNATURE = "serving_default"

_BYTES = "_bytes"
_FEW = 64  # up to here Python's own loop is faster than NumPy's two calls
_PREFIX = "failed to parse the request JSON buffer: "
_OFFSET = re.compile(r" ?(?:: line \d+ column \d+ )?\((?:byte|char) (\d+)\)$")

_decoder = msgspec.json.Decoder(Any)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request's tensors, and the form that its answer takes."""

    tensors: Tensors
    form: Form


def parse(body: bytes) -> dict[str, Any]:
    """A body → its JSON object. Raises `InvalidRequest` with the place of the mistake."""
    if not body:
        raise InvalidRequest("JSON Parse error: The document is empty")
    try:
        document = json_text.decode(body, _decoder)
    except InvalidRequest as error:
        reason = error.message.removeprefix(_PREFIX).removeprefix("JSON is malformed: ")
        place = _OFFSET.search(reason)
        offset = int(place[1]) if place else len(body)
        reason = _OFFSET.sub("", reason)
        raise InvalidRequest(f"JSON Parse error: {reason} at offset: {offset}") from error
    if not isinstance(document, dict):
        raise InvalidRequest(f"JSON Value: {show(document)} Is not object")
    return document


def signature(document: dict[str, Any]) -> str:
    """The signature that a request names; the default one where it names none."""
    name = document.get("signature_name")
    if name is None:
        return DEFAULT_SIGNATURE
    if not isinstance(name, str):
        raise InvalidRequest(
            f"JSON Value: {show(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return name or DEFAULT_SIGNATURE


def no_signature(name: str, known: Iterable[str]) -> InvalidRequest:
    """The error for a signature that a model does not have."""
    return InvalidRequest(
        f'Serving signature name: "{name}" not found in signature def',
        hint="it can be " + ", ".join(known),
    )


def decode(manifest: Manifest, document: dict[str, Any]) -> Decoded:
    """The tensors of a predict request. Raises `InvalidRequest`.

    Whether they fit the model is for the data plane to check.
    """
    name = signature(document)
    if name != DEFAULT_SIGNATURE:
        raise no_signature(name, [DEFAULT_SIGNATURE])
    by_rows, by_columns = "instances" in document, "inputs" in document
    if by_rows and by_columns:
        raise InvalidRequest(
            "the request has both 'inputs' and 'instances'",
            hint="send 'instances' for rows, or 'inputs' for whole tensors",
        )
    if by_rows:
        return Decoded(_from_rows(manifest.inputs, document["instances"]), "row")
    if by_columns:
        return Decoded(_from_columns(manifest.inputs, document["inputs"]), "column")
    raise InvalidRequest("Missing 'inputs' or 'instances' key")


def _from_rows(specs: tuple[TensorSpec, ...], instances: Any) -> Tensors:
    if not isinstance(instances, list):
        raise InvalidRequest(f"'instances' is {show(instances)}, and it must be a list")
    if not instances:
        raise InvalidRequest("No values in 'instances' array", hint="send at least one")
    if not _is_object(instances[0]):
        if len(specs) > 1:
            raise InvalidRequest(
                "instances is a plain list, but the model has several inputs",
                hint="send objects with the keys " + ", ".join(spec.name for spec in specs),
            )
        for number, instance in enumerate(instances):
            if _is_object(instance):
                raise InvalidRequest(
                    f"Expecting value/list but got object at item {number} of input list"
                )
        return {specs[0].name: array_of(specs[0], instances)}
    names = {spec.name for spec in specs}
    for number, instance in enumerate(instances):
        if not _is_object(instance):
            raise InvalidRequest(f"Expecting object but got list at item {number} of input list")
        if instance.keys() != names:
            raise InvalidRequest(
                f"Failed to process element: {number} of 'instances' list. "
                f"JSON object: {show(instance)} keys must be equal to: {','.join(sorted(names))}"
            )
    return {
        spec.name: array_of(spec, [instance[spec.name] for instance in instances]) for spec in specs
    }


def _from_columns(specs: tuple[TensorSpec, ...], value: Any) -> Tensors:
    if not _is_object(value):
        if len(specs) > 1:
            raise InvalidRequest(
                "inputs is a plain value/list, but the model has several inputs",
                hint="send an object with the keys " + ", ".join(spec.name for spec in specs),
            )
        return {specs[0].name: array_of(specs[0], value)}
    names = [spec.name for spec in specs]
    for spec in specs:
        if spec.name not in value:
            raise InvalidRequest(f"Missing named input: {spec.name} in 'inputs' object.")
    for name in value:
        if name not in names:
            raise InvalidRequest(
                f"'inputs' has '{name}', which is no input of the model",
                hint="its inputs are " + ", ".join(names),
            )
    return {spec.name: array_of(spec, value[spec.name]) for spec in specs}


def array_of(spec: TensorSpec, data: Any) -> Array:
    """Nested lists → the array of one input; bare numbers may stand where rows of one are meant."""
    where = f"input '{spec.name}'"
    array = _texts(data, where) if spec.datatype == "BYTES" else _numbers(data, spec, where)
    if array.ndim == 1 and spec.shape[1:] == (1,):
        return array.reshape(-1, 1)
    return array


def _numbers(data: Any, spec: TensorSpec, where: str) -> Array:
    if is_base64(data):
        raise InvalidRequest(f"{where} is {spec.datatype}, and only text can be sent as base64")
    return to_array(data, spec.datatype, where=where)


def _texts(data: Any, where: str) -> Array:
    shape, flat = flatten(data, where=where)
    array: Array = np.empty(len(flat), dtype=np.object_)
    for index, item in enumerate(flat):
        if type(item) is str:
            array[index] = to_bytes(item, where=where)
        elif is_base64(item):
            array[index] = unpack(item, where=where)
        else:
            raise InvalidRequest(
                f'the data of {where} must be strings, or {{"b64": "…"}}, and not {show(item)}'
            )
    return array.reshape(shape)


def is_base64(value: Any) -> bool:
    """Whether a JSON value is bytes in disguise: `{"b64": "…"}` and nothing else."""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def unpack(value: dict[str, str], *, where: str) -> bytes:
    """The bytes of `{"b64": "…"}`. Raises `InvalidRequest`."""
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"Unable to base64 decode the data of {where}: {error}") from error


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def encode(outputs: Tensors, form: Form, count: int) -> bytes:
    """Outputs → the body of the answer to a request of `count` rows.

    Raises `InvalidRequest` where an output has no row for each, and rows were asked for; or holds
    bytes that are no text, and JSON could not tell them.
    """
    if form == "row":
        for name, array in outputs.items():
            if not array.ndim or rows({name: array}) != count:
                raise InvalidRequest(
                    f"output '{name}' has no row for each of the {count} instances",
                    hint="send 'inputs' in place of 'instances' to get whole tensors",
                )
    values = {name: _plain(name, array) for name, array in outputs.items()}
    finite = all(_is_finite(array) for array in outputs.values())
    if len(values) == 1:
        (answer,) = values.values()
    elif form == "row":
        columns = zip(*values.values(), strict=True)
        answer = [dict(zip(values, row, strict=True)) for row in columns]
    else:
        answer = values
    key = "predictions" if form == "row" else "outputs"
    return json_text.encode({key: answer}, finite=finite)


def _plain(name: str, array: Array) -> Any:
    """Nested lists of JSON values."""
    if array.dtype.kind != "O":
        return array.tolist()
    as_bytes = name.endswith(_BYTES)
    flat: Array = np.empty(array.size, dtype=np.object_)
    for index, item in enumerate(array.flat):
        raw = item if isinstance(item, bytes) else str(item).encode()
        flat[index] = {"b64": base64.b64encode(raw).decode()} if as_bytes else _text(name, raw)
    return flat.reshape(array.shape).tolist()


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"output '{name}' holds bytes that are no UTF-8, which JSON cannot carry",
            hint=f"outputs whose names end in {_BYTES} are sent as base64; the Open Inference "
            "Protocol sends any as binary",
        ) from error


def _is_finite(array: Array) -> bool:
    if array.dtype.kind != "f":
        return True
    if array.size <= _FEW:
        return all(map(math.isfinite, array.ravel().tolist()))
    return bool(np.isfinite(array).all())
