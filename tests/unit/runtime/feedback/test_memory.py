import gc
import logging

import numpy as np
import pytest

from mlserve_cli.runtime.feedback.memory import Memory
from mlserve_cli.runtime.feedback.prediction import unpack
from mlserve_cli.runtime.processing.declaration import ValuesOutput

RIGHT = {"scores": np.array([[0, 0, 1]], np.float32)}
WRONG = {"scores": np.array([[1, 0, 0]], np.float32)}


def counts(memory, version="1", arm="default"):
    net = memory.tallies.of["iris", version, arm].net
    return net.agreed, net.differed


def test_a_truth_is_joined_once_and_a_later_one_replaces_it(memory, manifest, asked):
    memory.remember(asked("a"), manifest(), RIGHT, 1)

    assert memory.join("iris", "a", 0, "virginica") == "joined"
    assert memory.join("iris", "a", 0, "virginica") == "duplicate"
    assert counts(memory) == (1, 0)
    assert memory.join("iris", "a", 0, "setosa") == "corrected"
    assert counts(memory) == (0, 1)
    assert memory.tallies.results == {
        ("iris", "joined"): 1,
        ("iris", "duplicate"): 1,
        ("iris", "corrected"): 1,
    }


def test_what_joins_nothing_has_a_reason(memory, manifest, asked):
    for number in range(5):  # one more than are remembered
        memory.remember(asked(f"r{number}"), manifest(), RIGHT, 1)

    assert memory.join("iris", "r0", 0, "setosa") == "forgotten"
    assert memory.join("iris", "x", 0, "setosa") == "unseen"
    assert memory.join("roses", "r1", 0, "setosa") == "unseen"
    assert memory.join("iris", "r1", 1, "setosa") == "row"
    assert memory.join("iris", "r1", 0, "rose") == "truth"
    assert memory.join("iris", "r1", 0, "setosa") == "joined"


def test_the_id_inside_a_message_leads_to_the_same_prediction(memory, manifest, asked):
    memory.remember(asked("a", "order-7"), manifest(), RIGHT, 1)

    assert memory.join("iris", "order-7", 0, "virginica") == "joined"
    assert memory.join("iris", "a", 0, "virginica") == "duplicate"


def test_of_two_answers_with_one_id_the_newer_counts(memory, manifest, asked):
    memory.remember(asked("a"), manifest(), WRONG, 1)
    memory.remember(asked("a"), manifest(), RIGHT, 1)

    assert memory.join("iris", "a", 0, "virginica") == "joined"
    assert (counts(memory), memory.tallies.remembered["iris"]) == ((1, 0), 1)


def test_an_alias_that_was_taken_over_is_not_taken_away(memory, manifest, asked):
    memory.remember(asked("a", "one"), manifest(), WRONG, 1)
    memory.remember(asked("b", "one"), manifest(), RIGHT, 1)
    for number in range(3):
        memory.remember(asked(f"r{number}"), manifest(), RIGHT, 1)  # forgets "a"

    assert memory.join("iris", "a", 0, "virginica") == "forgotten"
    assert memory.join("iris", "one", 0, "virginica") == "joined"


def test_a_request_with_more_rows_than_are_remembered_pushes_out_no_other(memory, manifest, asked):
    memory.remember(asked("a"), manifest(), RIGHT, 1)
    many = {"scores": np.zeros((5, 3), np.float32)}

    assert memory.remember(asked("big"), manifest(), many, 5) is None
    assert memory.join("iris", "big", 0, "setosa") == "unseen"
    assert memory.join("iris", "a", 0, "setosa") == "joined"


def test_bytes_are_bounded_as_well_as_rows(manifest, asked):
    memory = Memory(1000, lambda *_: "default")
    made = manifest(("label", "BYTES", ("batch",)), labels=())
    for number in range(3000):
        long = {"label": np.array(["x" * 256], object)}
        memory.remember(asked(f"{number:0128}", f"{number:0128}b"[-128:]), made, long, 1)
        memory.join("iris", f"{number:0128}", 0, "y" * 256)

    recent = memory._models["iris"]
    assert recent.bytes <= 1000 << 10
    assert 0 < recent.rows < 1000
    assert recent.bytes == sum(unpack(each).size for each in recent.entries.values())


def test_a_shadow_is_joined_too_before_and_after_the_truth(memory, manifest, asked):
    early = memory.remember(asked("a"), manifest(), RIGHT, 1)
    late = memory.remember(asked("b"), manifest(), RIGHT, 1)
    early.also(manifest(version="2"), WRONG)
    for name in ("a", "b"):
        assert memory.join("iris", name, 0, "virginica") == "joined"
    late.also(manifest(version="2"), RIGHT)

    assert counts(memory) == (2, 0)
    assert counts(memory, "2", "shadow") == (1, 1)


def test_a_shadow_of_a_forgotten_prediction_counts_nothing(memory, manifest, asked):
    first = memory.remember(asked("a"), manifest(), RIGHT, 1)
    for number in range(4):
        memory.remember(asked(f"r{number}"), manifest(), RIGHT, 1)
    first.also(manifest(version="2"), WRONG)

    assert memory.tallies.remembered["iris"] == 4
    assert memory.join("iris", "a", 0, "virginica") == "forgotten"
    assert ("iris", "2", "shadow") not in memory.tallies.of


def test_versions_with_other_labels_are_judged_each_by_its_own(memory, manifest, asked):
    kept = memory.remember(asked("a"), manifest(), RIGHT, 1)
    kept.also(manifest(version="2", labels=("setosa", "rose", "virginica")), WRONG)

    assert memory.join("iris", "a", 0, "rose") == "joined"
    assert counts(memory, "2", "shadow") == (0, 1)
    assert counts(memory) == (0, 0)  # the first version knows no roses
    assert memory.join("iris", "a", 0, "virginica") == "corrected"
    assert (counts(memory), counts(memory, "2", "shadow")) == ((1, 0), (0, 1))


def test_a_package_put_in_the_place_of_a_version_is_judged_by_its_own_labels(
    memory, manifest, asked
):
    memory.remember(asked("a"), manifest(), RIGHT, 1)
    memory.remember(asked("b"), manifest(labels=("x", "y", "z")), RIGHT, 1)

    assert memory.join("iris", "a", 0, "virginica") == "joined"
    assert memory.join("iris", "b", 0, "z") == "joined"
    assert counts(memory) == (2, 0)


def test_outputs_that_decide_nothing_are_passed_over_and_said_once(memory, manifest, asked, caplog):
    with caplog.at_level(logging.WARNING, logger="mlserve"):
        for outputs in ({}, {"scores": np.zeros(3)}):
            assert memory.remember(asked("a"), manifest(), outputs, 1) is None

    assert len([each for each in caplog.records if "decide nothing" in each.message]) == 1


def test_a_regression_sums_its_errors_and_takes_corrections_back(memory, manifest, asked):
    made = manifest(("y", "FP32", ("batch",)), declared=ValuesOutput("y"))
    memory.remember(asked("a"), made, {"y": np.array([1.0, 5.0], np.float32)}, 2)
    memory.join("iris", "a", 0, 3.0)
    memory.join("iris", "a", 1, 5.0)

    found = memory.tallies.version("iris", "1")
    assert found["mean_absolute_error"] == 1.0
    assert found["root_mean_squared_error"] == pytest.approx(2**0.5)

    memory.join("iris", "a", 0, 1.0)
    assert memory.tallies.version("iris", "1")["mean_absolute_error"] == 0.0
    assert memory.tallies.version("iris", "2") is None


def test_the_garbage_collector_need_not_look_at_what_is_remembered(manifest, asked):
    memory, made = Memory(1000, lambda *_: "default"), manifest()
    for number in range(1000):
        memory.remember(asked(f"r{number}", f"a{number}"), made, RIGHT, 1)
        memory.join("iris", f"r{number}", 0, "virginica")
    gc.collect(0)

    assert not any(map(gc.is_tracked, memory._models["iris"].entries.values()))
