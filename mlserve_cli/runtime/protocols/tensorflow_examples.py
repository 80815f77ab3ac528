"""Examples and signatures of TensorFlow Serving: classify and regress.

An example is an object of features, as `tf.Example` has them: a value or a flat list each. Where
the package declares how it reads rows, the features are one of its rows; else they are the model's
inputs by name.

A package has no signature table, so the signatures are these: `serving_default`, and for each
input and output `classify_INPUT_to_OUTPUT` and `regress_INPUT_to_OUTPUT`, which pick an output.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..errors import InvalidRequest
from ..manifest import Manifest
from ..processing.declaration import ClassesOutput, ImageInput, ValuesOutput
from ..processing.outputs import softmax
from ..processing.payload import show
from ..processing.processor import Processor
from ..tensors import Array, Tensors, TensorSpec
from . import tensorflow_json as wire

Method = Literal["classify", "regress"]


def signatures(manifest: Manifest, method: Method) -> dict[str, str]:
    """The names that `method` may be asked for by → the output that answers."""
    found = {wire.DEFAULT_SIGNATURE: _main_output(manifest)}
    for given in manifest.inputs:
        for output in manifest.outputs:
            found[f"{method}_{given.name}_to_{output.name}"] = output.name
    return found


def output_of(manifest: Manifest, method: Method, name: str) -> str:
    """The output that answers the signature `name`. Raises `InvalidRequest`."""
    known = signatures(manifest, method)
    if name not in known:
        raise wire.no_signature(name, known)
    return known[name]


def _main_output(manifest: Manifest) -> str:
    """What classes or values are read from: as declared, or the first that holds fractions."""
    declared = manifest.processing.output
    if isinstance(declared, (ClassesOutput, ValuesOutput)):
        return declared.tensor
    scores = [spec.name for spec in manifest.outputs if spec.dtype.kind == "f"]
    return scores[0] if scores else manifest.outputs[0].name


def examples(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The examples of a request, with what they share. Raises `InvalidRequest`."""
    if "examples" not in document:
        raise InvalidRequest("key 'examples' is expected and was not found")
    found = document["examples"]
    if not isinstance(found, list):
        raise InvalidRequest(f"'examples' is {show(found)}, and it must be a list")
    if not found:
        raise InvalidRequest("'examples' value is an empty array", hint="send at least one")
    context = document.get("context", {})
    for example in (context, *found):
        if not isinstance(example, dict):
            raise InvalidRequest(f"Example must be JSON object but got {show(example)}")
    return [context | example for example in found]


def by_processing(manifest: Manifest) -> bool:
    """Whether the package itself says how a row becomes tensors."""
    return manifest.processing.input is not None or manifest.processing.python is not None


def processed(manifest: Manifest, processor: Processor, rows: list[dict[str, Any]]) -> Tensors:
    """Examples → tensors by the package's processing; it may take a while. Raises its errors."""
    pictures = isinstance(manifest.processing.input, ImageInput)
    return processor.tensors(
        [
            {name: _cell(name, value, pictures=pictures) for name, value in row.items()}
            for row in rows
        ]
    )


def _cell(name: str, value: Any, *, pictures: bool) -> Any:
    value = _single(value)
    if not wire.is_base64(value):
        return value
    if pictures:
        return value["b64"]
    try:
        return wire.unpack(value, where=f"feature '{name}'").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"feature '{name}' holds bytes that are no UTF-8") from error


def tensors(manifest: Manifest, rows: list[dict[str, Any]]) -> Tensors:
    """Examples → tensors where features are inputs. Raises `InvalidRequest`."""
    names = {spec.name for spec in manifest.inputs}
    for number, row in enumerate(rows):
        if row.keys() != names:
            raise InvalidRequest(
                f"example {number} has the features {', '.join(sorted(row)) or 'none'}, and the "
                f"model takes {', '.join(sorted(names))}"
            )
    return {spec.name: _stacked(spec, [row[spec.name] for row in rows]) for spec in manifest.inputs}


def _stacked(spec: TensorSpec, values: list[Any]) -> Array:
    if len(spec.shape) == 1 or spec.shape[1:] == (1,):
        values = [_single(value) for value in values]
    return wire.array_of(spec, values)


def _single(value: Any) -> Any:
    """What a list of one holds: in the end, every feature of an example is a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def classes(manifest: Manifest, name: str, scores: Array) -> list[list[list[Any]]]:
    """Scores (batch, classes) or (batch,) → `[label, score]` of every class, a list each row."""
    table = scores.reshape(len(scores), -1)
    declared = manifest.processing.output
    if isinstance(declared, ClassesOutput) and declared.tensor == name and declared.softmax:
        table = softmax(table.astype(np.float64))
    count = table.shape[1]
    labels = manifest.labels if len(manifest.labels) == count else _numbered(count)
    return [
        [[label, score] for label, score in zip(labels, row, strict=True)] for row in table.tolist()
    ]


def _numbered(count: int) -> tuple[str, ...]:
    """Labels of classes without names; a lone score has the empty one."""
    return tuple(map(str, range(count))) if count > 1 else ("",)


def values(name: str, found: Array) -> list[float]:
    """A regression (batch,) or (batch, 1) → one number a row. Raises `InvalidRequest`."""
    if found.ndim > 2 or found.shape[1:] not in ((), (1,)):
        raise InvalidRequest(
            f"output '{name}' has shape {list(found.shape)}, and a regression has one value a row",
            hint="use :predict, which sends whole tensors",
        )
    numbers: list[float] = found.reshape(-1).tolist()
    return numbers


def rows_of(name: str, outputs: Tensors, count: int) -> Array:
    """The output that was asked for. Raises `InvalidRequest` where it has no numbers for each."""
    array = outputs[name]
    if not array.ndim or array.shape[0] != count or array.dtype.kind == "O":
        raise InvalidRequest(
            f"output '{name}' has no number for each of the {count} examples",
            hint="use :predict, which sends whole tensors",
        )
    return array
