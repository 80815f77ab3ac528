"""What the server itself saw of a run: the difference of its metrics before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlserve_cli.bench.live.place import Place, ask
from mlserve_cli.bench.live.served import Served
from mlserve_cli.errors import MlserveError

Key = tuple[str, frozenset[tuple[str, str]]]
Samples = Mapping[Key, float]

_STAGES = ("queue", "processing", "compute", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSide:
    """Of one run. batches: rows up to … → how many batches. stages_ms: mean time in each stage."""

    mean_batch_rows: float
    batches: dict[str, int]
    stages_ms: dict[str, float]
    rejections: dict[str, int]

    @property
    def sentence(self) -> str:
        """For a person, after "the server saw"."""
        stages = ", ".join(f"{value:.3g} ms {stage}" for stage, value in self.stages_ms.items())
        refused = "".join(f"; {count:,} {reason}" for reason, count in self.rejections.items())
        return f"{self.mean_batch_rows:.1f} rows a batch; on average {stages}{refused}"

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "mean_batch_rows": self.mean_batch_rows,
            "batches_by_rows": self.batches,
            "mean_ms": self.stages_ms,
            "rejections": self.rejections,
        }


def scrape(place: Place, served: Served) -> Samples | None:
    """The metrics of the model now; None where the server has none of ours."""
    if not served.ours:
        return None
    try:
        reply = ask(place, "GET", "/metrics")
    except MlserveError:  # the server may be dead by now, which the run itself says
        return None
    if reply.status != 200:
        return None
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[Key, float] = {}
    for family in text_string_to_metric_families(reply.body.decode("utf-8", "replace")):
        for sample in family.samples:
            if sample.labels.get("model") == served.model:
                labels = frozenset(item for item in sample.labels.items() if item[0] != "version")
                key = (sample.name, labels)
                found[key] = found.get(key, 0.0) + sample.value
    return found


def between(before: Samples | None, after: Samples | None) -> ServerSide | None:
    """What came in between; None where nothing is known, or nothing ran."""
    if before is None or after is None:
        return None
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}

    def total(name: str, **labels: str) -> float:
        wanted = set(labels.items())
        return sum(value for (key, have), value in grown.items() if key == name and wanted <= have)

    runs = total("mlserve_batch_rows_count")
    if not runs:
        return None
    bounds: dict[float, float] = {}
    rejections: dict[str, int] = {}
    for (name, labels), value in grown.items():
        have = dict(labels)
        if name == "mlserve_batch_rows_bucket":
            bound = float(have["le"])
            bounds[bound] = bounds.get(bound, 0.0) + value
        elif name == "mlserve_rejections_total" and value:
            rejections[have.get("reason", "")] = int(value)
    batches, below = {}, 0.0
    for bound, value in sorted(bounds.items()):
        if value > below:
            batches["more" if bound == float("inf") else f"{bound:g}"] = int(value - below)
        below = value
    stages = {}
    for stage in _STAGES:
        count = total("mlserve_stage_seconds_count", stage=stage)
        if count:
            stages[stage] = total("mlserve_stage_seconds_sum", stage=stage) / count * 1e3
    return ServerSide(
        mean_batch_rows=total("mlserve_batch_rows_sum") / runs,
        batches=batches,
        stages_ms=stages,
        rejections=rejections,
    )
