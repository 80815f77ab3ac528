"""The float model, made ready: opset 13 or newer, shapes known, BatchNorm folded, nodes named."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.graph import attention
from mlserve_cli.quantize import memory
from mlserve_cli.quantize.normalform import normalize

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 13
"""QuantizeLinear has had an axis since opset 13; below it ONNX Runtime writes per-channel scales
into a model that is invalid, without an error."""

LIMIT_BYTES = 1_900_000_000
"""A protobuf message ends at 2 GiB, and the float model must fit in one on the way."""


def prepare(model: Path, folder: Path) -> Path:
    """Write `folder/prepared.onnx`: the same computation as `model`, in a form to quantize.

    Raises `StepError` when the opset cannot be converted or the shapes cannot be inferred.
    """
    import onnx

    _check_size(model)
    converted = folder / "converted.onnx"
    loaded = onnx.load(model)
    _freeze(loaded)
    attention.unfuse(loaded)
    if opset(loaded) < OPSET:
        loaded = _convert(loaded, model)
    onnx.save(loaded, converted)
    del loaded  # what follows reads the file, several times
    prepared = folder / "prepared.onnx"
    _infer(converted, prepared)
    memory.give_back(converted.stat().st_size)
    result = onnx.load(prepared)
    _name_nodes(result)
    normalize(result)
    onnx.save(result, prepared)
    return prepared


def opset(model: ModelProto) -> int:
    """The version of the standard ONNX operators that a model uses."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)


def _freeze(model: ModelProto) -> None:
    """Take weights out of the graph's inputs, where old exporters list them: a caller could then
    replace them, so nothing would be folded and nothing could be stored in int8."""
    weights = {item.name for item in model.graph.initializer}
    kept = [item for item in model.graph.input if item.name not in weights]
    if len(kept) < len(model.graph.input):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del model.graph.input[:]
        model.graph.input.extend(copies)
        model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs


def _check_size(model: Path) -> None:
    size = sum(file.stat().st_size for file in model.parent.iterdir() if file.suffix != ".npz")
    if size > LIMIT_BYTES:
        raise StepError(
            f"'{model}' has {size / 1e9:.1f} GB of weights, and at most {LIMIT_BYTES / 1e9:.1f} GB "
            "can be quantized.",
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the log lines and warnings of onnxruntime.quantization: they are no news to us."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _convert(model: ModelProto, path: Path) -> ModelProto:
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own C++ errors
        raise StepError(
            f"'{path}' has opset {opset(model)}, and cannot be converted to {OPSET}: "
            f"{first_line(error)}.",
            hint=f"export the model again with opset {OPSET} or newer",
        ) from error


def _infer(source: Path, target: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Symbolic shape inference helps transformers, needs sympy, and fails on some models; one that
    # even ONNX's own inference refuses is at least optimized.
    attempts: tuple[dict[str, bool], ...] = (
        {},
        {"skip_symbolic_shape": True},
        {"skip_symbolic_shape": True, "skip_onnx_shape": True},
    )
    reason = ""
    source, target = source.resolve(), target.resolve()
    for options in attempts:
        try:
            # It leaves what it had so far in the working folder when it gives up.
            with quietly(), chdir(target.parent):
                quant_pre_process(source, target, **options)
            return
        except Exception as error:  # anything: the tool is a pile of asserts
            reason = first_line(error)
    raise StepError(f"the shapes of the model's tensors cannot be inferred: {reason}.")


def _name_nodes(model: ModelProto) -> None:
    """Give each node a name of its own: the quantizer selects by name."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        while node.name in seen:
            node.name += "_"
        seen.add(node.name)
