"""A ready ONNX file → the package's model: checked, whole, and tidied where that changes no answer.

A file that needs nothing is copied byte for byte. Every change is tried before it is kept: what it
makes is loaded, and run beside the file as it was.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import EngineError, MlserveError, StepError, first_line
from mlserve_cli.export import rows
from mlserve_cli.export.origin import Origin
from mlserve_cli.graph import clean, free_batch, fusion, opset, parity, precision, repair, zipmap
from mlserve_cli.graph.batch import name_batch
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.processing.declaration import ClassesOutput, Processing
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import onnx


def write(file: Path, target: Path, progress: Progress, *, fuse: bool = False) -> Origin:
    """Copy or rewrite `file` as `target`, and load it.

    External data moves into the file while that stays under the limit of protobuf, and lies beside
    it above that; a batch dimension of any name is called "batch". Raises `StepError` when it is no
    ONNX file, incomplete, or of operators that nobody has; `EngineError` when it cannot be run.
    """
    progress.stage("checking the model")
    model, external = _read(file)
    _check_opset(file, model)
    model, attentions = opset.written_out(model)
    scores = zipmap.remove(model)
    # Each of these is needed to load the file at all, or changes names alone.
    changed = (
        bool(scores or attentions) | name_batch(model) | _lowered(model) | repair.tell_apart(model)
    )
    if external or changed:
        clean.save(model, target)
    else:
        shutil.copyfile(file, target)
    _load(file, model, target)
    _check(file, progress)
    before = opset.of(model)
    model, changes = _tidied(model, target, progress)
    made_up = _rows(target)
    if attentions:
        changes.insert(
            0,
            f"{attentions} Attention with a mask, which ONNX Runtime gets wrong at "
            f"opset {before}, were written out",
        )
    if fuse and made_up is not None:
        fused = fusion.apply(target, [made_up])
        changes += [f"{fused} times attention is one operator now"] if fused else []
    for text in changes:
        progress.say(text)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return Origin(
        kind="onnx",
        variant=precision.of(model),
        parameters={"source": "onnx", "opset": opset.of(model)}
        | ({"producer": producer} if producer else {})
        | ({"opset_before": before} if opset.of(model) != before else {})
        | ({"changes": changes} if changes else {}),
        libraries=("onnx", "onnxruntime"),
        labels=scores.labels if scores else (),
        processing=Processing(output=ClassesOutput(tensor=scores.output))
        if scores and len(scores.labels) > 1
        else None,
    )


def _read(file: Path) -> tuple[onnx.ModelProto, bool]:
    """The model with all of its weights, and whether they lay in files of their own."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model, uses_external_data

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
    return model, external


def _check_opset(file: Path, model: onnx.ModelProto) -> None:
    import onnx

    version, newest = opset.of(model), onnx.defs.onnx_opset_version()
    if version > newest:
        raise StepError(
            f"'{file}' is of opset {version}, and the newest that is known here is {newest}.",
            hint="export it again with opset_version=20, or upgrade onnx and onnxruntime",
        )


def _lowered(model: onnx.ModelProto) -> bool:
    """IR versions differ in the container, not in what is computed; ONNX Runtime lags behind."""
    if model.ir_version <= _NEWEST_IR or opset.of(model) > _OPSET_OF_IR:
        return False
    model.ir_version = _NEWEST_IR
    return True


_NEWEST_IR, _OPSET_OF_IR = 10, 22
"""IR version 11 came with opset 23; a file of an older opset needs no younger one than 10."""


def _load(file: Path, model: onnx.ModelProto, target: Path) -> None:
    try:
        engines.load("onnxruntime", target).close()
    except EngineError as error:
        foreign = opset.foreign_operators(model)
        if not foreign:  # ONNX Runtime names the copy, which is gone by the time this is read
            message = error.message.replace(str(target), str(file))
            raise EngineError(message, hint=error.hint) from error
        raise StepError(
            f"'{file}' uses the operator '{foreign[0]}'"
            + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else "")
            + ", which neither ONNX nor ONNX Runtime has.",
            hint="export it without custom operators; or write an engine that has them: "
            "--engine package.module:Class",
        ) from error


def _tidied(
    model: onnx.ModelProto, target: Path, progress: Progress
) -> tuple[onnx.ModelProto, list[str]]:
    """The model after each change that leaves its answers as they are; `target` holds it, too."""
    told: list[str] = []
    candidate = _copy(model)
    if done := repair.repair(candidate):
        model, kept = _keep(candidate, model, target)
        told += done if kept is None else []
    if opset.OLDEST <= opset.of(model) < opset.LEAST:
        before = opset.of(model)
        for version in opset.TARGETS:
            newer = opset.converted(model, version)
            if newer is None:
                continue
            model, kept = _keep(newer, model, target)
            if kept is None:
                told.append(f"opset {before} was converted to {version}")
                break
        else:
            told.append(f"opset {before} could not be converted to a younger one, and stays")
    candidate = _copy(model)
    if free_batch.free(candidate):
        model, kept = _keep(candidate, model, target)
        told.append(
            "the batch of 1 that was baked in may be of any size now: tried at 1, 2 and 7"
            if kept is None
            else f"the batch stays 1, as it was baked in: {kept}"
        )
    return model, told


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _keep(
    candidate: onnx.ModelProto, model: onnx.ModelProto, target: Path
) -> tuple[onnx.ModelProto, str | None]:
    """Put the candidate into `target` if it answers as what is there; else say why it does not."""
    beside = target.with_name(f".{target.name}.next")
    data = beside.with_name(beside.name + ".data")
    try:
        clean.save(candidate, beside)
        if data.exists():  # its name stands in the file: no proof by renaming
            return model, "it is larger than one file may be"
        with contextlib.ExitStack() as stack:
            old = stack.enter_context(contextlib.closing(engines.load("onnxruntime", target)))
            new = stack.enter_context(contextlib.closing(engines.load("onnxruntime", beside)))
            _compare(old, new)
        beside.replace(target)
    except MlserveError as error:
        return model, error.message
    finally:
        beside.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
    return candidate, None


def _compare(old: Any, new: Any) -> None:
    made = rows.synthetic(new)
    if all(spec.has_batch for spec in (*new.inputs, *new.outputs)):
        alone = all(spec.shape and spec.shape[0] == 1 for spec in old.inputs)
        run: Callable[[Tensors], Tensors] = _one_by_one(old) if alone else old.run
        parity.check(parity.compare(run, new, made))
        return
    expected, found = old.run(made), new.run(made)
    for name, array in expected.items():
        same = (
            np.allclose(array, found[name], rtol=1e-3, atol=1e-5, equal_nan=True)
            if array.dtype.kind == "f" and array.shape == found[name].shape
            else np.array_equal(array, found[name])
        )
        if not same:
            raise StepError(f"output '{name}' is another than before.")


def _one_by_one(engine: Any) -> Callable[[Tensors], Tensors]:
    def run(batch: Tensors) -> Tensors:
        count = len(next(iter(batch.values())))
        parts = [
            engine.run({name: array[row : row + 1] for name, array in batch.items()})
            for row in range(count)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run


def _rows(target: Path) -> Tensors | None:
    """Made-up rows that the model takes, to compare with; None where it takes none of them."""
    engine = engines.load("onnxruntime", target)
    try:
        batched = all(spec.has_batch for spec in (*engine.inputs, *engine.outputs))
        return rows.synthetic(engine) if batched else None
    except StepError:
        return None
    finally:
        engine.close()


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
