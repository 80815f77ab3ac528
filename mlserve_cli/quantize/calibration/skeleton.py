"""A model's graph with its weights in a file beside it, so that a session needs no second copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

SMALL_BYTES = 1024
"""Weights below stay in the graph: ONNX Runtime looks at shapes and axes when it infers types."""


def outsource(model: ModelProto, weights: Path) -> ModelProto:
    """Write the large weights of `model` into the file `weights`; return the rest of it.

    The result is small, refers to the file by its name, and must be saved in the same folder.
    """
    import onnx

    light = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy(light, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy(light.graph, field.name, value)
    with weights.open("wb") as file:
        for item in model.graph.initializer:
            if not item.HasField("raw_data") or len(item.raw_data) < SMALL_BYTES:
                light.graph.initializer.append(item)
                continue
            kept = light.graph.initializer.add(
                name=item.name,
                data_type=item.data_type,
                dims=item.dims,
                data_location=onnx.TensorProto.EXTERNAL,
            )
            place = {"location": weights.name, "offset": file.tell(), "length": len(item.raw_data)}
            for key, value in place.items():
                kept.external_data.add(key=key, value=str(value))
            file.write(item.raw_data)
    return light


def _copy(target: object, name: str, value: object) -> None:
    held = getattr(target, name)
    if hasattr(held, "extend"):
        held.extend(value)
    elif hasattr(held, "CopyFrom"):
        held.CopyFrom(value)
    else:
        setattr(target, name, value)
