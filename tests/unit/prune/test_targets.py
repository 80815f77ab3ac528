import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.prune import schedule, target
from mlserve_cli.prune.network import Survey
from mlserve_cli.prune.speed import Timing
from mlserve_cli.prune.target import Target
from mlserve_cli.training import size
from tests.unit.prune import architectures as nets


@pytest.fixture(scope="module")
def survey():
    """Of all layers ranked together: they do not round all at once, as those of a small network."""
    network, inputs = nets.build(nets.Residual), nets.example(nets.Residual)
    return Survey.of(network, inputs, scope="global")


@pytest.fixture(scope="module")
def whole(survey):
    return size.measure(survey.module, survey.example)


class Clock:
    """Times in proportion to the multiplications, and `fixed` milliseconds beside."""

    def __init__(self, survey, whole, fixed=0.0):
        self.survey, self.whole, self.fixed, self.asked = survey, whole, fixed, 0

    def __call__(self, module, parent):
        self.asked += 1
        share = size.measure(module, self.survey.example).macs / self.whole.macs
        took = share * 10 + self.fixed
        return Timing(10 + self.fixed, took, (10 + self.fixed) / took)


@pytest.mark.parametrize("kind", ["macs", "parameters"])
@pytest.mark.parametrize("share", [0.75, 0.5, 0.3])
def test_a_counted_goal_is_met_by_the_smallest_ratio_that_meets_it(survey, whole, kind, share):
    found = target.counted(survey, whole, kind, share)
    count = getattr(found.size, kind) / getattr(whole, kind)
    assert count <= share
    try:
        gentler = survey.prune(found.ratio - 0.01, check=False).module
    except StepError:  # nothing goes at less: channels go by eights
        return
    assert getattr(size.measure(gentler, survey.example), kind) / getattr(whole, kind) > share


def test_a_share_below_what_can_go_is_refused_with_what_can(survey, whole):
    with pytest.raises(StepError, match=r"cannot be reached: \d+% are left") as caught:
        target.counted(survey, whole, "macs", 0.001)
    assert "--drop-blocks" in caught.value.hint


@pytest.mark.parametrize("times", [1.5, 2.0, 3.0])
def test_a_speed_up_is_found_by_timing_candidates(survey, whole, times):
    clock = Clock(survey, whole)
    found = target.timed(survey, whole, Target("speedup", times), None, Silent(), compare=clock)
    assert found.timing.speedup >= times
    assert 1 / times * 0.5 < found.size.macs / whole.macs <= 1 / times
    assert clock.asked <= target.TIMED_STEPS + 2


def test_a_lucky_timing_does_not_decide(survey, whole):
    """Each network but the smallest looks twice as fast as it is when it is timed first."""
    clock, timed = Clock(survey, whole), set()

    def lucky(module, parent):
        found = clock(module, parent)
        if found.candidate_ms in timed or found.speedup > 4:
            return found
        timed.add(found.candidate_ms)
        return Timing(found.parent_ms, found.candidate_ms / 2, found.speedup * 2)

    found = target.timed(survey, whole, Target("speedup", 3.0), None, Silent(), compare=lucky)
    assert found.timing.speedup >= 3
    assert found.size.macs / whole.macs <= 1 / 3


@pytest.mark.parametrize(
    ("goal", "timing", "reached"),
    [
        (Target("speedup", 2.0), Timing(2.0, 1.0, 2.0), True),
        (Target("speedup", 2.0), Timing(1.97, 1.0, 1.97), True),  # two loads differ by as much
        (Target("speedup", 2.0), Timing(1.7, 1.0, 1.7), False),
        (Target("target_ms", 1.0), Timing(2.0, 1.01, 1.98), True),
        (Target("target_ms", 1.0), Timing(2.0, 1.2, 1.67), False),
    ],
)
def test_what_was_aimed_at_and_what_was_measured_is_evidence(goal, timing, reached):
    facts = goal.facts(timing)
    assert facts["reached"] is reached
    assert facts["summary"].startswith("reached" if reached else "it falls short: ")
    assert facts["ms"] == timing.candidate_ms


def test_milliseconds_are_a_goal_as_well(survey, whole):
    found = target.timed(
        survey, whole, Target("target_ms", 4.0), None, Silent(), compare=Clock(survey, whole)
    )
    assert 2.4 < found.timing.candidate_ms <= 4.0


def test_a_speed_out_of_reach_is_refused_with_the_best_and_its_reason(survey, whole):
    with pytest.raises(StepError) as caught:
        target.timed(
            survey,
            whole,
            Target("speedup", 3.0),
            None,
            Silent(),
            compare=Clock(survey, whole, fixed=10.0),
        )
    assert "3 times faster cannot be reached" in caught.value.message
    assert "the time is no longer theirs" in caught.value.message
    assert "at most --speedup 1." in caught.value.hint


def test_milliseconds_out_of_reach_are_answered_in_milliseconds_that_are_within(survey, whole):
    def timed(goal):
        return target.timed(
            survey, whole, Target("target_ms", goal), None, Silent(), compare=Clock(survey, whole)
        )

    with pytest.raises(StepError) as caught:
        timed(1e-4)
    offered = re.search(r"at least --target-ms ([\d.e-]+)", caught.value.hint)
    assert timed(float(offered[1])).timing.candidate_ms <= float(offered[1])


def test_layers_that_cannot_go_are_named_when_they_are_the_reason(survey, whole):
    with pytest.raises(StepError, match="of the multiplications are in what cannot go"):
        target.timed(
            survey, whole, Target("speedup", 1000.0), None, Silent(), compare=Clock(survey, whole)
        )


@given(steps=st.integers(1, 20), ratio=st.floats(0.05, 0.95))
def test_after_the_last_step_exactly_the_goal_is_left(steps, ratio):
    kept = [(1 - ratio) ** fraction for fraction in schedule.fractions(steps)]
    assert kept[-1] == pytest.approx(1 - ratio)
    assert kept == sorted(kept, reverse=True)
    shares = [after / before for before, after in zip([1.0, *kept], kept, strict=False)]
    assert max(shares) == pytest.approx(min(shares))


@given(total=st.integers(1, 500), steps=st.integers(1, 20))
def test_every_step_trains_and_the_last_is_longest(total, steps):
    found = schedule.epochs(total, steps)
    assert len(found) == steps
    assert min(found) >= 1
    assert found[-1] == max(found)
    assert sum(found) == total or total < 2 * steps
