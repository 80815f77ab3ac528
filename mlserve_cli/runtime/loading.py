"""From a package on disk to a model that may take traffic: size, load, warm up, prove.

All of it runs on a thread of its own, away from the event loop, which may be answering for other
models already.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from . import background, engines, golden, processing, sizing
from .engines import Engine
from .errors import InvalidRequest, PackageError, StartupError
from .golden import Golden
from .hardware import Hardware
from .manifest import SERVE, Manifest
from .monitoring import logs
from .processing import Processor
from .repository import Found
from .sizing import Sizing
from .tensors import Tensors, TensorSpec, check, rows

log = logging.getLogger(f"{logs.NAME}.loading")

_BUDGET_S = 0.4
"""Of measuring a model that has no numbers yet: a server is to be ready within a second of what its
engine needs, and those who serve beside a load wait no longer."""


class Abandoned(Exception):
    """The server stops before the model was loaded; there is nobody to tell."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is in memory and answered its golden rows. Instances take engines in turn."""

    sizing: Sizing
    engines: tuple[Engine, ...]
    processor: Processor

    def close(self) -> None:
        """Free the engines."""
        for engine in self.engines:
            engine.close()


def prepare(
    found: Found,
    wanted: Sizing | None,
    hardware: Hardware,
    *,
    abandon: threading.Event,
    live: bool = False,
) -> Prepared:
    """Load a package; without a `wanted` sizing it is measured.

    live: other models answer requests meanwhile, so no more than one core is taken from them; call
    it on a thread that ends afterwards. Raises `EngineError`, `PackageError`, `StartupError` when
    the golden predictions differ, and `Abandoned` soon after `abandon` is set.
    """
    manifest, serve = found.manifest, found.path / SERVE
    _warn_of_instruction_sets(manifest, hardware)
    processor = processing.build(manifest, serve)
    proof = golden.read(serve)
    _check_proof(manifest, proof, found.path)
    if live and wanted is None:
        chosen = _measure_beside_others(found, hardware)
    else:
        chosen = wanted or sizing.measure(found.path, manifest, hardware, budget_s=_BUDGET_S)
    loaded: list[Engine] = []
    try:
        for instance in range(_copies(chosen, hardware)):
            _check(abandon)
            if live and manifest.engine == "onnxruntime" and chosen.threads == 1:
                background.step_back()  # its sessions of one thread start no others
            before = background.threads()
            options = chosen.options(instance, len(hardware.gpus))
            loaded.append(engines.open_package(found.path, manifest, options))
            _check_signature(loaded[-1], manifest, found.path)
            with ExitStack() as held:
                if live:
                    held.enter_context(background.on_one_core(background.threads() - before))
                _warm_up(loaded[-1], manifest, proof, chosen.max_batch, abandon)
                _prove(loaded[-1], manifest, proof, found.path)
    except BaseException:
        for engine in loaded:
            engine.close()
        raise
    return Prepared(chosen, tuple(loaded), processor)


def _measure_beside_others(found: Found, hardware: Hardware) -> Sizing:
    """A sizing from the times of one thread: more would be taken from live requests.

    Every core gets an instance of one thread, as nothing is known of larger ones.
    """
    one = msgspec.structs.replace(hardware, physical_cores=1)
    chosen = sizing.measure(found.path, found.manifest, one, budget_s=_BUDGET_S)
    if chosen.inline or chosen.device != "cpu":
        return chosen
    why = "it was measured on one core, beside live traffic"
    return msgspec.structs.replace(
        chosen,
        threads=1,
        instances=hardware.physical_cores,
        reasons={**chosen.reasons, "threads": f"1: {why}", "instances": "one for each core"},
    )


def _copies(chosen: Sizing, hardware: Hardware) -> int:
    """How often the weights are in memory.

    Instances of one thread share a session, as its runs use their callers' threads alone; the
    threads of a larger pool would be shared as well, so these have a session each.
    """
    if chosen.device == "cuda":
        return max(1, min(chosen.instances, len(hardware.gpus)))
    return 1 if chosen.threads == 1 else chosen.instances


def _check(abandon: threading.Event) -> None:
    if abandon.is_set():
        raise Abandoned


def _warn_of_instruction_sets(manifest: Manifest, hardware: Hardware) -> None:
    missing = [
        names.replace("|", " or ")  # either is enough
        for names in manifest.instruction_sets
        if not any(name in hardware.isa for name in names.split("|"))
    ]
    if missing:
        log.warning(
            "%s %s was proven on a CPU with %s, which this one lacks: its answers may differ",
            manifest.name,
            manifest.version,
            ", ".join(missing),
        )


def _check_proof(manifest: Manifest, proof: Golden, path: Path) -> None:
    """Refuse golden predictions that are not what the manifest promises."""
    step = manifest.fixed_batch or rows(proof.inputs)
    try:
        check(manifest.inputs, _slice(proof.inputs, 0, step), model=manifest.name)
    except InvalidRequest as error:
        raise PackageError(
            f"the golden rows of '{path}' do not fit its manifest: {error.message.rstrip('.')}."
        ) from error
    for spec in manifest.outputs:
        if spec.name not in proof.outputs:
            raise PackageError(f"'{path}' has no golden predictions of its output '{spec.name}'.")


def _check_signature(engine: Engine, manifest: Manifest, path: Path) -> None:
    """Refuse a model that is not the manifest's: requests are checked against the manifest."""

    def facts(specs: Sequence[TensorSpec]) -> list[tuple[str, str, list[int]]]:
        return [(spec.name, spec.datatype, spec.wire_shape) for spec in specs]

    for what, mine, its in (
        ("inputs", manifest.inputs, engine.inputs),
        ("outputs", manifest.outputs, engine.outputs),
    ):
        if facts(mine) != facts(its):
            raise StartupError(
                f"the {what} of the model in '{path}' are not those that its manifest names.",
                hint="'mlserve verify' says more",
            )


def _warm_up(
    engine: Engine, manifest: Manifest, proof: Golden, max_batch: int, abandon: threading.Event
) -> None:
    """Visit every batch size that buffers come in; a first visit is 2 to 10 times slower."""
    only = manifest.fixed_batch or manifest.batch.max_batch
    size = only or 1
    while True:
        _check(abandon)
        sizing.run_golden(engine, manifest, sizing.tiled(proof.inputs, size))
        if only or size >= max_batch:
            return
        size = min(size * 2, max_batch)


def _prove(engine: Engine, manifest: Manifest, proof: Golden, path: Path) -> None:
    """Answer the golden rows once more. Raises `StartupError` when the answers differ."""
    count = rows(proof.inputs)
    step = manifest.fixed_batch or manifest.batch.max_batch or count
    for start in range(0, count, step):
        found = sizing.run_golden(engine, manifest, _slice(proof.inputs, start, step))
        for name, expected in _slice(proof.outputs, start, step).items():
            if name not in found:
                raise StartupError(f"'{path}' promises an output '{name}' that its model lacks.")
            difference = golden.relative_difference(expected, found[name])
            if difference > manifest.tolerance:
                raise StartupError(
                    f"'{manifest.name}' {manifest.version} does not answer as it did when it was "
                    f"packaged: output '{name}' differs by {difference:.1e} (relative), and "
                    f"{manifest.tolerance:.0e} is allowed.",
                    hint="another CPU or library version may be why; package it again on this "
                    "machine",
                )


def _slice(tensors: Tensors, start: int, step: int) -> Tensors:
    return {
        name: array[start : start + step] if array.ndim else array
        for name, array in tensors.items()
    }
