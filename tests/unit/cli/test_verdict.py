from types import SimpleNamespace

import pytest

from mlserve_cli.cli import verdict


def refused(*refusals, busy=0.0):
    manifest = SimpleNamespace(lineage=(SimpleNamespace(parameters={"epochs": 1}),))
    return SimpleNamespace(refusals=refusals, busy=busy, package=SimpleNamespace(manifest=manifest))


SLOWER = "slower than its parent: 1.20× slower at batch 1"
SHORT = "it falls short: 1.69 times faster, where --speedup asks for 2 at batch 1"


@pytest.mark.parametrize("reason", [SLOWER, SHORT])
def test_a_speed_that_was_measured_beside_other_work_is_worth_another_try(reason):
    assert "the machine was busy: try again" in verdict.hint(refused(reason, busy=0.5))
    assert "busy" not in verdict.hint(refused(reason, busy=0.01))


def test_accuracy_does_not_depend_on_other_work():
    hint = verdict.hint(refused("it loses 3 points of accuracy", busy=0.9))
    assert "busy" not in hint
    assert hint == "train it longer with --epochs, use it from there, or allow more with --max-drop"


def test_a_goal_that_was_missed_names_no_option_that_would_let_it_pass():
    assert verdict.hint(refused(SHORT)) == "ask for less, or use it from there"
    assert verdict.hint(refused(SHORT, SLOWER)).endswith("or allow more with --allow-slower")
