"""A TensorFlow SavedModel or a Keras file → ONNX, by tf2onnx in an environment of its own.

TensorFlow wants another protobuf than mlserve, so it cannot be installed beside it. `--tf-python`
names a Python that has it, and tf2onnx; it is started without a shell, and only files pass between
the two.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from mlserve_cli.errors import DefinitionError, StepError
from mlserve_cli.export import onnx_file, rows
from mlserve_cli.export.goal import Goal
from mlserve_cli.export.origin import Origin
from mlserve_cli.graph import parity
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.tensors import Tensors

VARIABLE = "MLSERVE_TF_PYTHON"
KERAS = (".keras", ".h5")
OPSET = 17
"""tf2onnx goes up to 18; quantization wants 13 at least."""

LIMIT_S = 1800
"""TensorFlow takes ten seconds to start; half an hour is for the largest models."""

ENVIRONMENT = (
    "python -m venv tf && tf/bin/pip install tensorflow-cpu tf2onnx, "
    "then add --tf-python tf/bin/python"
)

_FROM_KERAS = """
import sys, keras
keras.models.load_model(sys.argv[1], compile=False).export(sys.argv[2])
"""

_ANSWER = """
import sys, numpy, tensorflow
model = tensorflow.saved_model.load(sys.argv[1])
run = model.signatures["serving_default"]
given = {name: tensorflow.constant(array) for name, array in numpy.load(sys.argv[2]).items()}
numpy.savez(sys.argv[3], **{name: value.numpy() for name, value in run(**given).items()})
"""


def is_source(path: Path) -> bool:
    """Whether this is a SavedModel's folder, or a file of Keras."""
    return (path / "saved_model.pb").is_file() or path.suffix in KERAS


def write(source: Path, folder: Path, goal: Goal, progress: Progress, python: str | None) -> Origin:
    """Convert the model, tidy it as any ONNX file, and compare it with TensorFlow's answers.

    `python` is the interpreter that has TensorFlow and tf2onnx; else the environment variable
    MLSERVE_TF_PYTHON says. Raises `DefinitionError` where there is none, `StepError` where it
    fails.
    """
    goal.check_onnx("a TensorFlow model")
    python = python or os.environ.get(VARIABLE)
    if not python:
        raise DefinitionError(
            f"'{source}' is a TensorFlow model, and no Python with TensorFlow was named.",
            hint=ENVIRONMENT,
        )
    if not Path(python).is_file():
        raise DefinitionError(f"the Python '{python}' does not exist.", hint=ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="mlserve-tf-") as name:
        place = Path(name)
        saved = source
        if source.suffix in KERAS:
            progress.stage("reading the Keras file")
            saved = place / "saved"
            _run([python, "-c", _FROM_KERAS, str(source), str(saved)], "read the file")
        progress.stage("converting with tf2onnx")
        made = place / "model.onnx"
        command = ["-m", "tf2onnx.convert", "--saved-model", str(saved)]
        _run([python, *command, "--output", str(made), "--opset", str(OPSET)], "convert the model")
        if not made.is_file():
            raise StepError(f"tf2onnx wrote nothing for '{source}'.")
        origin = onnx_file.write(made, folder / goal.file, progress, fuse=goal.fuse)
        progress.stage("comparing with TensorFlow")
        compared, sample = _compare(python, saved, folder / goal.file, place)
    return dataclasses.replace(
        origin,
        kind="TensorFlow",
        parameters={**origin.parameters, "source": "tensorflow"},
        parity=compared,
        made_up=sample,
        engine=goal.engine,
        model=goal.file,
    )


def _compare(python: str, saved: Path, target: Path, place: Path) -> tuple[parity.Parity, Tensors]:
    """Made-up rows through both. TensorFlow takes seconds to start, so it answers all at once."""
    with contextlib.closing(engines.load("onnxruntime", target)) as engine:
        sample = rows.synthetic(engine)
        free = all(spec.has_batch for spec in (*engine.inputs, *engine.outputs))
        few = (
            {name: array[: max(parity.SIZES)] for name, array in sample.items()} if free else sample
        )
        np.savez(place / "given.npz", allow_pickle=False, **few)
        script = [_ANSWER, str(saved), str(place / "given.npz"), str(place / "found.npz")]
        _run([python, "-c", *script], "run the model")
        with np.load(place / "found.npz", allow_pickle=False) as found:
            answers = [found[name] for name in found.files]
            by_name = dict(zip(found.files, answers, strict=True))
        names = [spec.name for spec in engine.outputs]
        if set(by_name) != set(names):
            by_name = dict(zip(names, answers, strict=True))
        places = {_key(few, row): row for row in range(len(next(iter(few.values()))))}

        def source(batch: Tensors) -> Tensors:
            if not free:
                return by_name
            at = [places[_key(batch, row)] for row in range(len(next(iter(batch.values()))))]
            return {name: by_name[name][at] for name in names}

        sizes = parity.SIZES if free else (len(next(iter(few.values()))),)
        compared = parity.compare(source, engine, few, sizes=sizes)
        parity.check(compared)
        return compared, sample


def _key(tensors: Tensors, row: int) -> bytes:
    return b"".join(array[row].tobytes() for array in tensors.values())


def _run(command: list[str], what: str) -> None:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)  # the other Python has packages of its own
    try:
        done = subprocess.run(  # noqa: S603  (an interpreter that the user named, and no shell)
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError(f"'{command[0]}' cannot {what}: {error}.", hint=ENVIRONMENT) from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1] if lines else f"it ended with status {done.returncode}"
        missing = "No module named" in last
        raise StepError(
            f"'{command[0]}' cannot {what}: {last.removesuffix('.')[:300]}.",
            hint=ENVIRONMENT if missing else "run it by hand to see all that it printed",
        )
