"""Parity: what counts as a difference of meaning, and what does not."""

import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.graph import parity
from mlserve_cli.runtime.tensors import TensorSpec

ROWS = {"x": np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)}


class Scripted:
    """An engine that answers with a function, and remembers the batch sizes that it saw."""

    def __init__(self, function, *, batch="batch", outputs=("y",)):
        self.inputs = (TensorSpec("x", "FP32", (batch, 3)),)
        self.outputs = tuple(TensorSpec(name, "FP32", (batch, 3)) for name in outputs)
        self.seen = []
        self._function = function

    def run(self, tensors):
        self.seen.append(len(tensors["x"]))
        return self._function(tensors)

    def close(self):
        pass


def double(tensors):
    return {"y": tensors["x"] * 2}


def test_an_equal_model_has_no_error_and_agrees_at_every_batch_size():
    engine = Scripted(double)

    found = parity.compare(double, engine, ROWS)

    assert (found.relative_error, found.agreement, found.tiled) == (0.0, 1.0, False)
    assert set(engine.seen) == {1, 2, 7}
    assert [line.batch for line in found.lines] == [1, 2, 7]
    parity.check(found)


def test_a_sample_with_fewer_rows_than_the_largest_batch_is_repeated_and_that_is_said():
    found = parity.compare(double, Scripted(double), {"x": ROWS["x"][:3]})

    assert found.tiled
    assert found.rows >= 7


def test_an_error_over_the_tolerance_is_refused_with_the_figure_and_the_output():
    def off(tensors):
        return {"y": tensors["x"] * 2.01}

    found = parity.compare(double, Scripted(off), ROWS)

    with pytest.raises(StepError, match=r"output 'y'.*relative error of 5\.0e-03.*1e-04"):
        parity.check(found)


def test_a_changed_decision_is_refused_with_its_share():
    def reversed_columns(tensors):
        return {"y": tensors["x"][:, ::-1] * 2}

    with pytest.raises(StepError, match="decides otherwise than its source on"):
        parity.check(parity.compare(double, Scripted(reversed_columns), ROWS))


def test_a_tie_that_float_noise_decides_otherwise_is_no_change_of_meaning():
    def tie(tensors):
        return {"y": np.ones((len(tensors["x"]), 2), np.float32)}

    def nearly(tensors):
        return {"y": np.tile(np.float32([1, 1 + 1e-6]), (len(tensors["x"]), 1))}

    found = parity.compare(tie, Scripted(nearly), ROWS)

    assert found.agreement == 0.0
    assert found.changed == 0.0
    parity.check(found)


def step(tensors):
    """A tree of one split: nothing about it is continuous."""
    return {"y": np.where(tensors["x"][:, :1] > 0.5, 1.0, 0.0) * np.ones((1, 2)) * [1.0, 0.5]}


def test_a_row_on_a_split_is_noise_only_where_the_source_itself_moves_with_float_noise():
    rows = {"x": np.full((14, 3), 0.5, np.float64)}
    rows["x"][7:] = 3.0

    def other_side(tensors):
        return step({"x": tensors["x"] + 1e-9})

    def nudge(batch):
        yield {"x": batch["x"] * (1 + 1e-6)}

    blind = parity.compare(step, Scripted(other_side), rows, sizes=(7, 14))
    seeing = parity.compare(step, Scripted(other_side), rows, sizes=(7, 14), nudge=nudge)

    assert blind.deviating >= 0.5
    assert seeing.deviating == 0.0
    assert seeing.on_edge == 0.5
    parity.check(seeing)


def test_a_wrong_row_away_from_any_split_is_no_noise():
    rows = {"x": np.full((14, 3), 3.0)}

    def wrong(tensors):
        return {"y": step(tensors)["y"] * 0.9}

    def nudge(batch):
        yield {"x": batch["x"] * (1 + 1e-6)}

    found = parity.compare(step, Scripted(wrong), rows, nudge=nudge)

    assert found.deviating == 1.0
    with pytest.raises(StepError):
        parity.check(found, share=0.01)


def test_whole_numbers_and_text_are_decisions_as_they_are():
    def labels(tensors):
        return {"y": (tensors["x"][:, 0] > 0).astype(np.int64)}

    def others(tensors):
        return {"y": 1 - labels(tensors)["y"]}

    assert parity.compare(labels, Scripted(labels), ROWS).agreement == 1.0
    found = parity.compare(labels, Scripted(others), ROWS)
    assert (found.agreement, found.changed) == (0.0, 1.0)


def test_a_batch_size_that_was_baked_in_is_found_from_the_signature():
    with pytest.raises(StepError, match="the batch size 4 was baked into the model"):
        parity.compare(double, Scripted(double, batch=4), ROWS)


def test_a_batch_size_that_was_baked_in_is_found_from_an_answer_of_another_shape():
    def four(tensors):
        return {"y": np.zeros((4, 3), np.float32)}

    with pytest.raises(StepError, match=r"shape \(4, 3\) at batch 1.*answers \(1, 3\)"):
        parity.compare(double, Scripted(four), ROWS)


def test_a_model_that_fails_at_one_batch_size_is_named_with_that_size():
    def even(tensors):
        if len(tensors["x"]) == 7:
            raise RuntimeError("Reshape cannot\nmany lines follow")
        return double(tensors)

    with pytest.raises(StepError, match=r"exported model fails at batch 7: Reshape cannot[.]$"):
        parity.compare(double, Scripted(even), ROWS)


def test_nan_where_the_source_has_a_number_is_an_infinite_error():
    def broken(tensors):
        return {"y": np.full_like(tensors["x"], np.nan)}

    found = parity.compare(double, Scripted(broken), ROWS)

    assert found.relative_error == np.inf
    with pytest.raises(StepError):
        parity.check(found)


def test_nan_on_both_sides_is_the_same_answer():
    def undefined(tensors):
        return {"y": np.full_like(tensors["x"], np.nan)}

    found = parity.compare(undefined, Scripted(undefined), ROWS)

    assert found.relative_error == 0.0
    parity.check(found)
