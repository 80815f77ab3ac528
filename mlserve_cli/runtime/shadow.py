"""Copies of live requests for a version that is only tried out: compared, and thrown away.

The primary's answer is on its way before a copy is made, a copy's failure is only counted, and
copies are dropped while live requests wait or other copies are still being computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from .errors import RequestError, release
from .processing.declaration import ClassesOutput
from .tensors import Array, Tensors, check

if TYPE_CHECKING:
    from .feedback.memory import Remembered
    from .registry import LoadedModel

PRIORITY = 100
"""Behind every live request of the same version."""

CLOSE = 0.01
"""Two numbers agree when they differ by less than this, relative to the largest of their row."""

_AT_ONCE = 4  # copies on their way; more would only take cores from live requests
_ON_THE_LOOP = 1 << 16  # bytes of outputs; comparing more takes longer than a hop to a thread
_GOLDEN = 0.6180339887498949


@dataclass(slots=True)
class Tally:
    """What became of the copies. Rows: agreed, differed. Requests: dropped, failed."""

    agreed: int = 0
    differed: int = 0
    dropped: int = 0
    failed: int = 0


class ShadowMetrics(Collector):
    """The tallies by (model, primary's version, shadow's version), for Prometheus."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, str, str], Tally] = {}

    def tally(self, model: str, version: str, shadow: str) -> Tally:
        """The tally of one pair; it goes on where it was."""
        return self.tallies.setdefault((model, version, shadow), Tally())

    def collect(self) -> Iterable[Metric]:
        """Two families; none before the first copy."""
        if not self.tallies:
            return
        labels = ("model", "version", "shadow", "result")
        rows = CounterMetricFamily(
            "mlserve_shadow_rows",
            "Rows that a shadow version answered too, by whether it agreed.",
            labels=labels,
        )
        copies = CounterMetricFamily(
            "mlserve_shadow_lost",
            "Copies of requests that were not compared: dropped under load, or failed.",
            labels=labels,
        )
        for key, tally in list(self.tallies.items()):
            rows.add_metric((*key, "agree"), tally.agreed)
            rows.add_metric((*key, "differ"), tally.differed)
            copies.add_metric((*key, "dropped"), tally.dropped)
            copies.add_metric((*key, "failed"), tally.failed)
        yield rows
        yield copies


class Shadow:
    """Sends copies to `target`. One for each model whose rule names a shadow.

    share: percent of the requests that are copied.
    """

    def __init__(self, target: LoadedModel, share: float, metrics: ShadowMetrics) -> None:
        self.target = target
        self._share = share / 100
        self._metrics = metrics
        self._position = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def copy(
        self,
        primary: LoadedModel,
        tensors: Tensors,
        outputs: Tensors,
        rows: int,
        *,
        remembered: Remembered | None = None,
    ) -> None:
        """Send a copy of a request that `primary` answered with `outputs`. Returns at once.

        remembered: that answer, which the truth may be joined to; the copy's is remembered with it.
        """
        self._position = (self._position + _GOLDEN) % 1.0
        if self._position >= self._share:
            return
        manifest = primary.manifest
        tally = self._metrics.tally(manifest.name, manifest.version, self.target.manifest.version)
        batcher = self.target.batcher
        busy = primary.batcher.queued_rows or batcher.queued_rows
        if busy or len(self._tasks) >= _AT_ONCE or rows > batcher.max_batch:
            tally.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(
            self._compare(primary, tensors, outputs, rows, tally, remembered)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(
        self,
        primary: LoadedModel,
        tensors: Tensors,
        expected: Tensors,
        rows: int,
        tally: Tally,
        remembered: Remembered | None,
    ) -> None:
        target = self.target
        try:
            check(target.manifest.inputs, tensors, model=target.manifest.name)
            found = await target.batcher.run(tensors, rows, priority=PRIORITY)
            if remembered is not None:
                remembered.also(target.manifest, found)
            decisive = _decisive(primary)
            if sum(array.nbytes for array in expected.values()) <= _ON_THE_LOOP:
                agreed = agreement(expected, found, rows, decisive=decisive)
            else:
                agreed = await asyncio.to_thread(
                    agreement, expected, found, rows, decisive=decisive
                )
        except RequestError as error:
            if error.status == 503:  # its queue is full, or it is being unloaded
                tally.dropped += 1
            else:
                tally.failed += 1
            release(error)
        except Exception as error:  # an engine of the user's own may return anything
            tally.failed += 1
            release(error)
        else:
            tally.agreed += agreed
            tally.differed += rows - agreed


def agreement(expected: Tensors, found: Tensors, rows: int, *, decisive: str | None = None) -> int:
    """How many of `rows` rows agree in every output.

    Whole numbers and texts agree when they are equal, floats when they are within `CLOSE`; of the
    output named `decisive`, (batch, classes) scores, the same best class is enough.
    """
    same = np.ones(rows, dtype=np.bool_)
    for name, left in expected.items():
        right = found.get(name)
        if right is None or right.shape != left.shape or not left.ndim or len(left) != rows:
            return 0
        same &= _same(left.reshape(rows, -1), right.reshape(rows, -1), name == decisive)
    return int(np.count_nonzero(same))


def _same(left: Array, right: Array, classes: bool) -> Array:
    """(rows,) bool: which rows of two (rows, n) arrays agree."""
    if left.shape[1] == 0:
        return np.ones(len(left), dtype=np.bool_)
    if left.dtype.kind != "f" or right.dtype.kind != "f":
        return np.asarray((left == right).all(axis=1))
    if classes and left.shape[1] > 1:
        return np.asarray(np.argmax(left, axis=1) == np.argmax(right, axis=1))
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.nanmax(np.abs(np.where(np.isfinite(left), left, 0.0)), axis=1, keepdims=True)
        close = np.abs(left - right) <= CLOSE * scale + 1e-12
    return np.asarray((close | (left == right) | (np.isnan(left) & np.isnan(right))).all(axis=1))


def _decisive(model: LoadedModel) -> str | None:
    declared = model.manifest.processing.output
    return declared.tensor if isinstance(declared, ClassesOutput) else None
