"""An ensemble: packages and processing steps run as one model, the tensors between them in memory.

The steps run in their order on the caller's thread; a tensor is let go after the last step that
reads it. On a CPU, branches side by side would only share the cores that each of them fills alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from .. import engines
from .. import manifest as manifests
from ..ensemble import declaration
from ..ensemble.declaration import Ensemble, FunctionStep, PackageStep, Step
from ..ensemble.functions import Function
from ..ensemble.member import Member, rows_of
from ..ensemble.operations import build
from ..errors import EngineError, RequestError
from ..tensors import Array, Tensors, TensorSpec, datatype_of
from .engine import EngineOptions, StepTimes


@dataclass(frozen=True, slots=True)
class _Running:
    """A step that is ready to run.

    what: how an error names it. run: tensors so far → those that it makes. spent: which are of no
    use after it.
    """

    step: Step
    what: str
    run: Callable[[Tensors], Tensors]
    spent: tuple[str, ...]


class EnsembleEngine:
    """The members are in memory once each; `run` may be called from several threads.

    report: told how long each step of a run took, once somebody sets it.
    """

    def __init__(
        self, model: Path, options: EngineOptions, *, declared: Ensemble | None = None
    ) -> None:
        declared = declared or declaration.read(model)
        self.inputs, self.outputs = declared.inputs, declared.outputs
        self.steps = tuple(step.name for step in declared.steps)
        self.report: Callable[[StepTimes], None] | None = None
        self._makers = {tensor: step.name for step in declared.steps for tensor in step.makes}
        self._untold = _untold(declared)
        self._views = frozenset(
            tensor
            for step in declared.steps
            if not isinstance(step, PackageStep)
            for tensor in step.makes
        )
        self._members: dict[str, Member] = {}
        try:
            self._running = self._start(declared, model.parent, options)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def devices(model: Path) -> tuple[str, ...]:
        """Where its members can run: on a GPU if one of them can, the others then on the CPU."""
        serve = model.parent
        each = [
            engines.devices(declaration.folder(serve, name), manifest)
            for name, manifest in declaration.members(serve).items()
        ]
        if any("cpu" not in devices for devices in each):
            return ("cuda",)
        return ("cuda", "cpu") if any("cuda" in devices for devices in each) else ("cpu",)

    def free_bytes(self) -> int:
        """What is left of the members' own memory; 0 where they have the process's."""
        says = [getattr(member.engine, "free_bytes", None) for member in self._members.values()]
        return min((left for left in (int(each()) for each in says if each) if left), default=0)

    def run(self, tensors: Tensors) -> Tensors:
        """Run the steps. What one raises names it; the client's mistakes stay the client's."""
        count = rows_of(tensors)
        marks = [time.perf_counter()]
        there = dict(tensors)
        for running in self._running:
            there.update(_run(running, there))
            for name in running.spent:
                del there[name]
            marks.append(time.perf_counter())
        outputs = {spec.name: self._output(spec, there, tensors, count) for spec in self.outputs}
        report = self.report
        if report is not None:
            seconds = [after - before for before, after in pairwise(marks)]
            report(StepTimes(self.steps, seconds))
        return outputs

    def trace(self, tensors: Tensors) -> Tensors:
        """Every tensor that a run makes: an exporter learns from them what no signature says."""
        there = dict(tensors)
        for running in self._running:
            there.update(_run(running, there))
        return {name: array for name, array in there.items() if name not in tensors}

    def close(self) -> None:
        """Free the members."""
        while self._members:
            self._members.popitem()[1].engine.close()

    def _start(
        self, declared: Ensemble, serve: Path, options: EngineOptions
    ) -> tuple[_Running, ...]:
        found = []
        kept = {spec.name for spec in declared.outputs}
        last = {tensor: step.name for step in declared.steps for tensor in step.makes}
        last |= {tensor: step.name for step in declared.steps for tensor in step.takes}
        for step in declared.steps:
            spent = tuple(
                tensor for tensor, name in last.items() if name == step.name and tensor not in kept
            )
            what, run = self._open(step, serve, options)
            found.append(_Running(step, what, run, spent))
        return tuple(found)

    def _open(
        self, step: Step, serve: Path, options: EngineOptions
    ) -> tuple[str, Callable[[Tensors], Tensors]]:
        if isinstance(step, PackageStep):
            return self._open_member(step, serve, options)
        if isinstance(step, FunctionStep):
            function = Function(step, serve)

            def call(there: Tensors) -> Tensors:
                made = function.run({name: there[tensor] for name, tensor in step.inputs.items()})
                return {tensor: made[key] for key, tensor in step.outputs.items()}

            return f"{step.file}:{step.function}", call
        operation = build(step)
        return step.operation, lambda there: {
            step.output: operation([there[tensor] for tensor in step.inputs])
        }

    def _open_member(
        self, step: PackageStep, serve: Path, options: EngineOptions
    ) -> tuple[str, Callable[[Tensors], Tensors]]:
        untold = any(tensor in self._untold for tensor in step.takes)
        member = self._members.get(step.member)
        if member is None:
            path = declaration.folder(serve, step.member)
            manifest = manifests.read(path)
            if untold:  # its batches are not those of the ensemble
                options = msgspec.structs.replace(options, batches=())
            engine = engines.open_package(path, manifest, options)
            member = self._members[step.member] = Member(engine, manifest)
        _check_signature(step, member)

        def run(there: Tensors) -> Tensors:
            inputs = {name: there[tensor] for name, tensor in step.inputs.items()}
            outputs = member.run(inputs, untold=untold)
            return {tensor: outputs[name] for name, tensor in step.outputs.items()}

        return f"{member.manifest.name} {member.manifest.version}", run

    def _output(self, spec: TensorSpec, there: Tensors, inputs: Tensors, count: int) -> Array:
        array = there[spec.name]
        if spec.has_batch and (not array.ndim or array.shape[0] != count):
            raise self._wrong(spec, f"has {_rows(array)} for a batch of {count}")
        if spec.name in self._views:
            if spec.name in self._untold:
                self._check_told(spec, array)
            # Callers own what they get, and the inputs may be memory of the next batch.
            if any(np.may_share_memory(array, each) for each in inputs.values()):
                array = array.copy()
        return array

    def _check_told(self, spec: TensorSpec, array: Array) -> None:
        fits = array.ndim == len(spec.shape) and all(
            isinstance(allowed, str) or size == allowed
            for size, allowed in zip(array.shape, spec.shape, strict=True)
        )
        if not fits or array.dtype != spec.dtype:
            raise self._wrong(
                spec,
                f"is {datatype_of(array)} {array.shape}, and was {spec.datatype} "
                f"({', '.join(map(str, spec.shape))}) when the ensemble was made",
            )

    def _wrong(self, spec: TensorSpec, what: str) -> EngineError:
        return EngineError(f"the output '{spec.name}' of step '{self._makers[spec.name]}' {what}")


def _run(running: _Running, there: Tensors) -> Tensors:
    try:
        return running.run(there)
    except RequestError as error:
        message = f"step '{running.step.name}' ({running.what}): {error.message}"
        raise type(error)(message, hint=error.hint) from error
    except Exception as error:  # engines and functions raise what they like
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(f"step '{running.step.name}' ({running.what}) failed: {first}") from error


def _untold(declared: Ensemble) -> frozenset[str]:
    """The tensors whose shape no signature tells: of functions, and what follows from them."""
    untold: set[str] = set()
    for step in declared.steps:
        follows = not isinstance(step, PackageStep) and any(each in untold for each in step.takes)
        if isinstance(step, FunctionStep) or follows:
            untold.update(step.makes)
    return frozenset(untold)


def _check_signature(step: PackageStep, member: Member) -> None:
    """Refuse a step that feeds its member something else than it takes. Raises `EngineError`."""
    takes = {spec.name for spec in member.manifest.inputs}
    makes = {spec.name for spec in member.manifest.outputs}
    if step.inputs.keys() != takes or not step.outputs.keys() <= makes:
        raise EngineError(
            f"step '{step.name}' does not fit its member '{step.member}', which takes "
            f"{', '.join(sorted(takes))} and makes {', '.join(sorted(makes))}.",
            hint="export the ensemble again",
        )


def _rows(array: Array) -> str:
    return f"{array.shape[0]} rows" if array.ndim else "no rows"
