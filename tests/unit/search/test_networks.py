"""Which smaller network is trained next, for the seconds that are left and the speed wanted."""

from dataclasses import replace

import pytest

from mlserve_cli.search import networks
from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.networks import Network, Training
from mlserve_cli.search.proposals import Facts, propose
from mlserve_cli.search.trial import Speed, Trial


def network(name, macs, seconds, *, kind="pruned", after=""):
    steps = (StepChoice(step="prune", parameters={"macs": macs}),)
    if kind == "student":
        steps = (StepChoice(step="distill"), *(steps if after else ()))
    return Network(name=name, kind=kind, steps=steps, macs=macs, seconds=seconds, after=after)


HALF, QUARTER = network("half", 0.5, 60), network("quarter", 0.25, 60)
STUDENT = network("student", 0.1, 40, kind="student")
SMALLER = network("student-half", 0.05, 20, kind="student", after="student")
ALL = (HALF, QUARTER, STUDENT, SMALLER)


def trial(candidate, state="passed", times=2.0, training_s=0.0):
    speed = Speed(
        batch=1, p50_ms=1 / times, p50_low_ms=0.9 / times, p50_high_ms=1.1 / times,
        rows_per_s=1000 * times, speed_up=times, speed_up_low=times * 0.95,
        speed_up_high=times * 1.05,
    )  # fmt: skip
    return Trial(
        key=candidate.key, name=candidate.name, state=state, speeds=(speed,),
        steps=tuple(step.document() for step in candidate.steps), training_s=training_s,
    )  # fmt: skip


def int8(times, state="passed", **parameters):
    step = StepChoice(step="quantize", parameters={"method": "static", **parameters})
    return trial(Candidate(name=f"int8-{times:g}", steps=(step,)), state, times)


def order(trials=(), wanted=None, seconds=1000, given=ALL):
    return [
        each.name
        for each in networks.plan(
            Training(seconds=seconds, networks=given), trials, wanted
        ).fitting
    ]  # fmt: skip


def test_the_cheapest_training_that_could_reach_the_goal_comes_first():
    assert order() == ["student", "half", "quarter", "student-half"]
    # 3 times as fast: half of the multiplications are too many, unless int8 won a factor of two.
    assert order(wanted=3) == ["student", "quarter", "student-half", "half"]
    assert order([int8(2.0)], wanted=3) == ["student", "half", "quarter", "student-half"]
    assert order([int8(2.0, "inaccurate")], wanted=3)[-1] == "half"


def test_what_does_not_fit_into_the_budget_is_named_with_its_time():
    plan = networks.plan(Training(seconds=70, networks=ALL), (), None)
    assert [each.name for each in plan.fitting] == ["student"]
    assert plan.reasons[0] == (
        "half was not trained: it takes about 60 s, and 30 s of --train-budget were left"
    )
    assert len(plan.reasons) == 3


def test_trainings_that_take_longer_than_estimated_leave_less_for_the_others():
    slow = trial(STUDENT.candidate, training_s=120.0)
    plan = networks.plan(Training(seconds=300, networks=ALL), [slow], None)
    assert plan.left == 180
    # Three times as slow: 60 s of half are 180 s, and nothing is left.
    assert [each.name for each in plan.fitting] == ["student-half"]
    assert "half was not trained: it takes about 3 min" in " ".join(plan.reasons)


@pytest.mark.parametrize(
    ("state", "said"), [("inaccurate", "loses too much already"), ("failed", "could not be made")]
)
def test_a_smaller_one_is_not_trained_where_a_larger_one_of_its_kind_did_not_pass(state, said):
    done = [trial(HALF.candidate, state)]
    assert order(done) == ["student", "student-half"]
    plan = networks.plan(Training(seconds=1000, networks=ALL), done, None)
    (reason,) = plan.reasons
    assert reason.startswith("quarter was not trained: half")
    assert said in reason


FACTS = Facts(
    operators=frozenset({"Conv"}), quantized=False, has_rows=False, engines=(), isa=frozenset(),
    training=Training(seconds=1000, networks=ALL),
)  # fmt: skip


def names(trials=(), **changes):
    return [each.name for each in propose(replace(FACTS, **changes), trials)]


def test_one_network_is_trained_at_a_time_and_those_that_pass_take_the_precisions_that_won():
    won = [int8(2.0), int8(3.0, calibrator="mse"), int8(1.5, calibrator="percentile")]
    assert names(won) == ["student"]
    done = [*won, trial(STUDENT.candidate, times=5)]
    # Half of the student costs 20 s now that there is a student, and half of the whole 60.
    assert names(done) == ["student-int8-3", "student-int8-2", "student-half"]
    lossy = [*won, trial(STUDENT.candidate, "inaccurate", times=5)]
    assert names(lossy) == ["half"]
    made = next(each for each in propose(FACTS, done) if each.name == "student-int8-3")
    assert [step.step for step in made.steps] == ["distill", "quantize"]


def test_a_precision_with_nodes_left_in_float_stays_with_the_network_whose_nodes_these_are():
    won = [int8(2.0, exclude=["head"])]
    assert names([*won, trial(STUDENT.candidate)]) == ["student-half"]


def test_nothing_is_trained_once_the_goal_is_reached():
    assert names([int8(2.0)], speed_up=3) == ["student"]
    assert names([int8(3.1)], speed_up=3) == []


def test_without_a_training_budget_there_is_nothing_to_train():
    assert names(training=Training()) == []
