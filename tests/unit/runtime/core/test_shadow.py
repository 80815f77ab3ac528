import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InferenceFailed, Overloaded
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.monitoring.metrics import Metrics
from mlserve_cli.runtime.processing.declaration import ClassesOutput, Processing
from mlserve_cli.runtime.registry import Registry
from mlserve_cli.runtime.shadow import PRIORITY, Shadow, ShadowMetrics, agreement
from mlserve_cli.runtime.tensors import TensorSpec
from mlserve_cli.runtime.traffic import Traffic, TrafficRule

ROWS = {"x": np.ones((2, 3), np.float32)}


class FakeBatcher:
    """Answers by a function; remembers priorities."""

    def __init__(self, answer=None):
        self.answer = answer or (lambda tensors: {"y": tensors["x"]})
        self.max_batch, self.queued_rows = 8, 0
        self.priorities = []
        self.gate = None

    async def run(self, tensors, rows, deadline=None, *, priority=0, timing=None):
        self.priorities.append(priority)
        if self.gate is not None:
            await self.gate.wait()
        return self.answer(tensors)


def model(version, answer=None, output=None, columns=3):
    spec = TensorSpec("x", "FP32", ("batch", columns))
    manifest = Manifest(
        name="m",
        version=version,
        variant="fp32",
        inputs=(spec,),
        outputs=(),
        processing=Processing(output=output),
    )
    return SimpleNamespace(manifest=manifest, batcher=FakeBatcher(answer), shadows=())


def copies(primary, target, outputs, *, count=1, share=100.0):
    """Copy a request `count` times, let the copies end, and give the tally."""
    metrics = ShadowMetrics()
    shadow = Shadow(target, share, metrics)

    async def main():
        for _ in range(count):
            shadow.copy(primary, ROWS, outputs, 2)
            while shadow._tasks:
                await asyncio.wait(shadow._tasks)

    asyncio.run(main())
    return metrics.tally("m", primary.manifest.version, target.manifest.version)


def test_rows_that_agree_and_differ_are_counted():
    tally = copies(model("1"), model("2"), {"y": np.array([[1, 1, 1], [1, 2, 1]], np.float32)})

    assert (tally.agreed, tally.differed, tally.dropped, tally.failed) == (1, 1, 0, 0)


def test_a_share_of_the_requests_is_copied():
    target = model("2")
    tally = copies(model("1"), target, {"y": ROWS["x"]}, count=100, share=25)

    assert abs(tally.agreed // 2 - 25) <= 3
    assert set(target.batcher.priorities) == {PRIORITY}


@pytest.mark.parametrize("which", ["primary", "target"])
def test_copies_are_dropped_while_requests_wait(which):
    pair = {"primary": model("1"), "target": model("2")}
    pair[which].batcher.queued_rows = 1
    tally = copies(**pair, outputs={"y": ROWS["x"]})

    assert (tally.dropped, tally.agreed) == (1, 0)
    assert pair["target"].batcher.priorities == []


def test_few_copies_are_on_their_way_at_once():
    target, metrics = model("2"), ShadowMetrics()
    shadow = Shadow(target, 100, metrics)

    async def main():
        target.batcher.gate = asyncio.Event()
        for _ in range(10):
            shadow.copy(model("1"), ROWS, {"y": ROWS["x"]}, 2)
        target.batcher.gate.set()
        while shadow._tasks:
            await asyncio.wait(shadow._tasks)

    asyncio.run(main())
    tally = metrics.tally("m", "1", "2")
    assert tally.agreed // 2 + tally.dropped == 10
    assert tally.dropped >= 5


@pytest.mark.parametrize(
    ("error", "dropped", "failed"),
    [
        (Overloaded("full"), 1, 0),
        (InferenceFailed("broken"), 0, 1),
        (ZeroDivisionError(), 0, 1),
    ],
)
def test_a_shadow_that_fails_is_only_counted(error, dropped, failed):
    def fail(tensors):
        raise error

    tally = copies(model("1"), model("2", fail), {"y": ROWS["x"]})

    assert (tally.dropped, tally.failed, tally.agreed) == (dropped, failed, 0)


def test_a_shadow_of_another_signature_is_counted_as_failed():
    tally = copies(model("1"), model("2", columns=4), {"y": ROWS["x"]})

    assert tally.failed == 1


def test_large_answers_are_compared_as_well():
    big = np.ones((2, 40_000), np.float32)
    tally = copies(model("1"), model("2", lambda tensors: {"y": big}), {"y": big})

    assert tally.agreed == 2


def test_of_scores_the_same_best_class_is_enough():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], np.float32)
    other = np.array([[0.3, 0.4, 0.3], [0.2, 0.5, 0.3]], np.float32)
    primary = model("1", output=ClassesOutput(tensor="y"))

    tally = copies(primary, model("2", lambda tensors: {"y": other}), {"y": scores})

    assert (tally.agreed, tally.differed) == (1, 1)


NAN = float("nan")


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([[1.0, 100.0]], [[1.5, 100.5]], 1),  # within a hundredth of the largest
        ([[1.0, 100.0]], [[1.0, 102.0]], 0),
        ([[0.0]], [[0.0]], 1),
        ([[NAN, 1.0]], [[NAN, 1.0]], 1),
        ([[NAN, 1.0]], [[0.0, 1.0]], 0),
        ([[np.inf]], [[np.inf]], 1),
        ([[np.inf]], [[1.0]], 0),
    ],
)
def test_numbers_agree_when_they_are_close(left, right, expected):
    arrays = [{"y": np.array(side, np.float32)} for side in (left, right)]

    assert agreement(*arrays, 1) == expected


@pytest.mark.parametrize(
    "other",
    [{}, {"y": np.array([1, 2])}, {"y": np.array([[1], [2]])}, {"y": np.array([9, 9, 9])}],
)
def test_answers_of_another_form_do_not_agree(other):
    assert agreement({"y": np.array([1, 2, 3])}, other, 3) == 0


def test_texts_agree_when_they_are_equal():
    left = np.array([b"cat", b"dog"], dtype=object)
    right = np.array([b"cat", b"cow"], dtype=object)

    assert agreement({"y": left}, {"y": right}, 2) == 1


def test_the_metrics_tell_of_agreement():
    metrics, registry = Metrics(), Registry()
    for version in ("1", "2"):
        registry.add(model(version))
    traffic = Traffic(registry, metrics)
    assert b"mlserve_shadow" not in metrics.render()
    traffic.set_rule("m", TrafficRule(default="1", shadow="2"))
    (shadow,) = registry.get("m", "1").shadows

    async def main():
        shadow.copy(registry.get("m", "1"), ROWS, {"y": ROWS["x"]}, 2)
        await asyncio.wait(shadow._tasks)

    asyncio.run(main())

    line = b'mlserve_shadow_rows_total{model="m",result="agree",shadow="2",version="1"} 2.0'
    assert line in metrics.render()
