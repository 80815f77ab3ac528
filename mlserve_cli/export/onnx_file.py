"""A ready ONNX file → the package's model: checked, whole, and otherwise as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.export.origin import Origin
from mlserve_cli.graph import clean, precision
from mlserve_cli.graph.batch import name_batch
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines


def write(file: Path, target: Path, progress: Progress) -> Origin:
    """Copy or rewrite `file` as `target`, and load it.

    External data moves into the file while that stays under the limit of protobuf, and a batch
    dimension of any name is called "batch"; a file that needs neither is copied byte for byte.
    Raises `StepError` when it is no ONNX file, or incomplete; `EngineError` when it cannot be run.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

    progress.stage("checking the model")
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's errors share no public base class
        raise _no_onnx(file) from error
    if not model.ir_version or not model.HasField("graph") or not model.graph.output:
        raise _no_onnx(file)
    external = any(uses_external_data(tensor) for tensor in model.graph.initializer)
    if external:
        try:
            load_external_data_for_model(model, str(file.parent))
        except Exception as error:  # onnx reports a missing data file as a ValidationError
            raise StepError(
                f"the weights of '{file}' cannot be read: {first_line(error)}.",
                hint="keep the external data file beside the ONNX file",
            ) from error
    renamed = name_batch(model)
    if external or renamed:
        clean.save(model, target)
    else:
        shutil.copyfile(file, target)
    engines.load("onnxruntime", target).close()
    _check(file, progress)
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return Origin(
        kind="onnx",
        variant=precision.of(model),
        parameters={"source": "onnx", "opset": opset}
        | ({"producer": producer} if producer else {}),
        libraries=("onnx", "onnxruntime"),
    )


def _check(file: Path, progress: Progress) -> None:
    """What the checker finds is told, not refused: ONNX Runtime has loaded the file by now."""
    import onnx

    try:
        onnx.checker.check_model(str(file))
    except Exception as error:  # ValidationError, and protobuf's own for models over 2 GB
        progress.say(f"onnx.checker objects, ONNX Runtime does not: {first_line(error)}.")


def _no_onnx(file: Path) -> StepError:
    return StepError(
        f"'{file}' is no ONNX file, or not a whole one.",
        hint="copy it again, or export it again where the model was trained",
    )
