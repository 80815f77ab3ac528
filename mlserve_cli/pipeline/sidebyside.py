"""What `bench` measures of packages: combinations, those that must be made first, and profiles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlserve_cli.bench import engine as timing
from mlserve_cli.bench.lineup import Asked, Entry, Excluded, lineup
from mlserve_cli.bench.report import Loaded, Report
from mlserve_cli.errors import MlserveError, StepError
from mlserve_cli.explain import nodes
from mlserve_cli.explain.nodes import Profile
from mlserve_cli.package import step as steps
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.pipeline.engine import EngineStep
from mlserve_cli.runtime import golden, measuring
from mlserve_cli.runtime.hardware import detect

PROFILED_RUNS = 50
SHOWN_NODES = 10


def bench(asked: Asked, progress: Progress) -> Report:
    """Measure every combination, and keep the figures in the evidence of each package.

    For torch a program is written from an ONNX package's source, and thrown away afterwards.
    Raises `EngineError` where nothing can run; with one combination alone, why.
    """
    hardware = detect()
    entries = lineup(
        [Package.open(Path(path)) for path in asked.paths],
        engines=asked.engines,
        precisions=asked.precisions,
        threads=asked.threads,
        cores=hardware.physical_cores,
    )
    with ExitStack() as stack:
        ready, excluded = _made(entries, stack, progress)
        if not ready:
            raise StepError(f"'{excluded[0].label}' cannot run: {excluded[0].reason}.")
        report = timing.measure(
            ready,
            batch_sizes=asked.batch_sizes,
            seconds=asked.seconds,
            alone=True,
            exclude=len(entries) > 1,
            excluded=excluded,
            progress=progress,
            hardware=hardware,
        )
    return timing.keep(replace(report, asked=asked), progress)


def _made(
    entries: Sequence[Entry], stack: ExitStack, progress: Progress
) -> tuple[list[Entry], list[Excluded]]:
    """ONNX packages that torch is to run are handed to it first, each once."""
    made: dict[Path, Package | MlserveError] = {}
    ready: list[Entry] = []
    excluded: list[Excluded] = []
    for entry in entries:
        package = entry.package
        if entry.setting.engine != "torch" or not package.manifest.model.endswith(".onnx"):
            ready.append(entry)
            continue
        if package.path not in made:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="mlserve-bench-")))
            try:
                made[package.path] = steps.run(
                    EngineStep("torch"), package, folder / package.path.name, progress=progress
                )
            except MlserveError as error:
                made[package.path] = error
        found = made[package.path]
        if isinstance(found, MlserveError):
            excluded.append(Excluded(label=entry.label, reason=found.message.rstrip(".")))
        else:
            ready.append(replace(entry, package=found, origin=package))
    return ready, excluded


def profiles(report: Report, progress: Progress) -> dict[str, Profile | str]:
    """Label → what each node takes at the smallest batch, or why that cannot be said."""
    found: dict[str, Profile | str] = {}
    progress.stage("timing every node", total=len(report.packages))
    for item in report.packages:
        progress.advance(note=item.label)
        if item.setting.engine != "onnxruntime":
            found[item.label] = (
                f"{item.setting.engine} tells no times of single nodes, ONNX Runtime does"
            )
            continue
        try:
            found[item.label] = _profile(item, report)
        except MlserveError as error:
            found[item.label] = error.message
    return found


def _profile(item: Loaded, report: Report) -> Profile:
    manifest = item.package.manifest
    batch = min(found.batch for found in report.of(item.label) or report.measurements)
    batch = manifest.fixed_batch or min(batch, manifest.batch.max_batch or batch)
    rows = measuring.tiled(golden.read(item.package.serve).inputs, batch)
    return nodes.profile(item.package.model, rows, runs=PROFILED_RUNS, threads=item.setting.threads)


def profile_facts(found: Profile | str) -> dict[str, Any]:
    """For `--json`."""
    if isinstance(found, str):
        return {"reason": found}
    return {
        "runs": found.runs,
        "total_us": found.total_us,
        "nodes": [
            {
                "name": node.name,
                "operator": node.operator,
                "kind": node.kind,
                "microseconds": node.microseconds,
            }
            for node in found.nodes
        ],
    }
