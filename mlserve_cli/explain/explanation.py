"""All that can be said of how a package runs here, in one piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlserve_cli.errors import StepError
from mlserve_cli.explain import deviation, nodes
from mlserve_cli.explain.deviation import Deviation
from mlserve_cli.explain.nodes import Profile
from mlserve_cli.explain.reasons import Origin, origins
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress, Silent
from mlserve_cli.runtime import golden, measuring

SCHEMA = 1
_DEVIATION_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What runs, how long, why not in int8, and how far from the parent it lies.

    origins: of each node, by the name that it runs under. deviations: empty without a parent.
    """

    package: Package
    batch: int
    threads: int
    profile: Profile
    origins: dict[str, Origin]
    deviations: tuple[Deviation, ...]

    def facts(self) -> dict[str, Any]:
        """What `--json` prints."""
        total = self.profile.total_us or 1.0
        return {
            "schema": SCHEMA,
            "package": str(self.package.path),
            "digest": self.package.manifest.digest,
            "variant": self.package.manifest.variant,
            "batch": self.batch,
            "threads": self.threads,
            "runs": self.profile.runs,
            "total_us": self.profile.total_us,
            "time_share": {kind: self.profile.share(kind) for kind in _KINDS},
            "nodes": [
                {
                    "name": node.name,
                    "operator": node.operator,
                    "kind": node.kind,
                    "microseconds": node.microseconds,
                    "share": node.microseconds / total,
                    "source": self.origins[node.name].node,
                    "why_float": self.origins[node.name].why_float,
                }
                for node in self.profile.nodes
            ],
            "deviations": [
                {
                    "tensor": item.tensor,
                    "node": item.node,
                    "operator": item.operator,
                    "relative_rms": item.relative_rms,
                    "decibels": item.decibels,
                }
                for item in self.deviations
            ],
        }


_KINDS: tuple[nodes.Kind, ...] = ("int8", "float", "conversion", "other")


def explain(
    package: Package,
    *,
    parent: Package | None = None,
    batch: int = 1,
    runs: int = 50,
    threads: int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Profile a package on its golden rows, and compare it with its float parent if one is given.

    threads: 0 takes ONNX Runtime's choice. Raises `StepError` for a package that another engine
    runs, or whose parent has other inputs.
    """
    import onnx

    progress = progress or Silent()
    _check_engine(package)
    rows = golden.read(package.serve).inputs
    fixed = package.manifest.fixed_batch
    limit = fixed or package.manifest.batch.max_batch
    batch = fixed or min(batch, limit or batch)
    progress.stage("timing every node")
    profiled = nodes.profile(
        package.model, measuring.tiled(rows, batch), runs=runs, threads=threads
    )
    written = onnx.load(package.model, load_external_data=False)
    found: list[Deviation] = []
    if parent is not None:
        _check_engine(parent)
        if parent.manifest.inputs != package.manifest.inputs:
            raise StepError(
                f"'{parent.path}' has other inputs than '{package.path}', so it is not its parent."
            )
        progress.stage("comparing every tensor with the parent's")
        count = limit or _DEVIATION_ROWS
        feed = {name: array[:count] if array.ndim else array for name, array in rows.items()}
        found = deviation.deviations(parent.model, package.model, feed)
    return Explanation(
        package=package,
        batch=batch,
        threads=threads,
        profile=profiled,
        origins=origins(profiled.nodes, written, package.manifest),
        deviations=tuple(found),
    )


def _check_engine(package: Package) -> None:
    if package.manifest.engine not in ("onnxruntime", "openvino"):
        raise StepError(
            f"'{package.path}' is run by the engine '{package.manifest.engine}', and only what "
            "ONNX Runtime runs can be explained node by node."
        )
