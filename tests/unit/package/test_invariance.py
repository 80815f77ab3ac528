"""A row's answer is proven to be the same in any company, or the reason against it is said."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from mlserve_cli.package.invariance import prove
from mlserve_cli.runtime.tensors import TensorSpec

REAL = {"x": np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)}


@dataclass
class Scripted:
    """An engine that answers with a function of its batch."""

    answer: object
    shape: tuple = ("batch", 4)
    seen: list = field(default_factory=list)

    def __post_init__(self):
        self.inputs = (TensorSpec("x", "FP32", self.shape),)
        self.outputs = (TensorSpec("y", "FP32", self.shape),)

    def run(self, tensors):
        self.seen.append(tensors["x"].copy())
        return {"y": self.answer(tensors["x"])}


def shared_scale(x):
    """What dynamic int8 does: one scale for the whole batch."""
    scale = max(float(np.nanmax(np.abs(x))), 1e-9) / 127
    return np.round(np.nan_to_num(x) / scale) * scale


def test_a_model_that_treats_rows_alone_is_invariant():
    engine = Scripted(lambda x: x * 2)

    proof = prove(engine, REAL, tolerance=1e-6)

    assert proof.invariant
    assert proof.max_batch is None
    assert {len(batch) for batch in engine.seen} == {1, 2, 7}


def test_a_scale_shared_by_the_batch_is_found_out():
    proof = prove(Scripted(shared_scale), REAL, tolerance=1e-2)

    assert not proof.invariant
    assert proof.max_batch == 1
    assert "outlier" in proof.reason


def test_a_nan_that_spreads_to_its_neighbours_is_found_out():
    proof = prove(Scripted(lambda x: x + 0 * x.sum()), REAL, tolerance=1e-2)

    assert not proof.invariant


def test_a_model_that_mixes_real_rows_is_found_out():
    proof = prove(Scripted(lambda x: x - x.mean(axis=0)), REAL, tolerance=1e-4)

    assert not proof.invariant
    assert "real rows" in proof.reason


def test_a_batch_that_was_baked_in_is_no_batch():
    proof = prove(Scripted(lambda x: x, shape=(1, 4)), REAL, tolerance=1e-4)

    assert not proof.invariant
    assert "fixed" in proof.reason


def test_a_model_that_fails_on_two_rows_says_so():
    def only_one(x):
        if len(x) != 1:
            raise ValueError("Reshape: cannot\ndetails")
        return x

    proof = prove(Scripted(only_one), REAL, tolerance=1e-4)

    assert not proof.invariant
    assert proof.reason == "a batch of 2 fails: Reshape: cannot"


def test_an_output_without_rows_is_no_batch():
    proof = prove(Scripted(lambda x: x[:1]), REAL, tolerance=1e-4)

    assert not proof.invariant
    assert "does not have 2 rows" in proof.reason


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_rows_are_enough_for_a_proof(count):
    proof = prove(Scripted(lambda x: x * 2), {"x": REAL["x"][:count]}, tolerance=1e-6)

    assert proof.invariant
