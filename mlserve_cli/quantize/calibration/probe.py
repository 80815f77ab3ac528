"""A float model opened at its inner tensors, and their values over the calibration rows.

Only a few rows are run at a time: as many as keep the values that are fetched below a budget, so
that memory does not grow with the number of rows nor with the size of their batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.graph.session import settings
from mlserve_cli.quantize.calibration.rows import CalibrationRows, cut
from mlserve_cli.quantize.calibration.skeleton import outsource
from mlserve_cli.runtime.tensors import Tensors, rows

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BUDGET_BYTES = 256 << 20
"""Of values fetched in one run: small beside what ONNX Runtime itself needs for a large model."""


def session(
    model: ModelProto,
    outputs: Sequence[str],
    folder: Path,
    *,
    type: int = 0,
    nodes: Sequence[NodeProto] = (),
) -> Any:
    """Open a copy of `model` that answers the tensors `outputs` and nothing else.

    type: their ONNX element type where it is not float32. nodes: that it has beside its own.
    """
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper

    weights = folder / "probe.weights"
    opened = outsource(model, weights)
    opened.graph.node.extend(nodes)
    del opened.graph.output[:]
    for name in outputs:
        opened.graph.output.append(
            helper.make_tensor_value_info(name, type or TensorProto.FLOAT, None)
        )
    path = folder / "probe.onnx"
    onnx.save(opened, path)
    try:
        return ort.InferenceSession(
            path, sess_options=settings(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors share no public base class
        raise StepError(f"the prepared model does not load: {first_line(error)}.") from error
    finally:  # what is mapped into memory stays there
        path.unlink(missing_ok=True)
        weights.unlink(missing_ok=True)


def run(opened: Any, outputs: Sequence[str], batch: Tensors, number: int) -> list[Any]:
    """Run one calibration batch. Raises `StepError` that names it where the model fails."""
    try:
        # ONNX Runtime takes text as str, and a model of text alone would be no use here.
        feed = {name: _text(array) for name, array in batch.items()}
        found: list[Any] = opened.run(list(outputs), feed)
    except Exception as error:
        raise StepError(
            f"the model fails on calibration batch {number}: {first_line(error)}."
        ) from error
    return found


def values(
    model: ModelProto,
    outputs: Sequence[str],
    calibration: CalibrationRows,
    folder: Path,
    *,
    limit_rows: int | None = None,
    type: int = 0,
) -> Iterator[tuple[Tensors, int]]:
    """Yield the values of `outputs` by name, with their number of rows, over all rows.

    limit_rows: end after so many. The number of rows in a run follows from the first one.
    """
    if not outputs:
        return
    opened = session(model, outputs, folder, type=type)
    step, seen = 1, 0
    for number, batch in enumerate(calibration, start=1):
        size, start = rows(batch), 0
        while start < size:
            taken = size if calibration.fixed else min(step, size - start)
            if limit_rows is not None and not calibration.fixed:
                taken = min(taken, limit_rows - seen)
            found = run(opened, outputs, cut(batch, start, start + taken), number)
            named = dict(zip(outputs, found, strict=True))
            bytes_a_row = max(sum(array.nbytes for array in found) // taken, 1)
            step = max(1, BUDGET_BYTES // bytes_a_row)
            yield named, taken
            start += taken
            seen += taken
            if limit_rows is not None and seen >= limit_rows:
                return


def _text(array: Any) -> Any:
    if array.dtype.kind != "O":
        return array
    text = np.array([item.decode("utf-8", "replace") for item in array.flat], dtype=np.object_)
    return text.reshape(array.shape)
