import numpy as np
import pytest

from mlserve_cli.runtime.manifest import Manifest, PaddingProof
from mlserve_cli.runtime.padding import Padding, axes, bucket
from mlserve_cli.runtime.tensors import TensorSpec

INPUTS = (
    TensorSpec("ids", "INT64", ("batch", "length")),
    TensorSpec("mask", "INT64", ("batch", "length")),
)
OUTPUTS = (
    TensorSpec("scores", "FP32", ("batch", 2)),
    TensorSpec("states", "FP32", ("batch", "length", 3)),
)


def manifest(proof):
    return Manifest(
        name="m", version="1", variant="fp32", inputs=INPUTS, outputs=OUTPUTS, padding=proof
    )


@pytest.fixture
def padding():
    proof = PaddingProof(harmless=True, dimensions=("length",), largest=64)
    made = Padding.of(manifest(proof))
    assert made is not None
    return made


def text(rows, length):
    return {
        "ids": np.arange(1, rows * length + 1).reshape(rows, length),
        "mask": np.ones((rows, length), np.int64),
    }


@pytest.mark.parametrize("proof", [None, PaddingProof(harmless=False, reason="it differs")])
def test_without_a_proof_nothing_is_padded(proof):
    assert Padding.of(manifest(proof)) is None


def test_only_the_axes_of_those_dimensions_are_filled_up():
    assert axes(OUTPUTS, ("length",)) == {"scores": (), "states": ((1, "length"),)}


def test_those_of_similar_length_share_a_batch(padding):
    keys = {length: padding.key(text(1, length)) for length in (13, 15, 16, 17, 64, 65, 66)}

    assert keys[13] == keys[15] == keys[16] != keys[17]
    assert len({keys[64], keys[65], keys[66]}) == 3  # beyond what was tried, each is alone


def test_an_exact_size_is_not_taken_for_a_bucket(padding):
    small = Padding({"ids": ((1, "length"),)}, {}, largest=16)

    assert small.key(text(1, 24)) != small.key(text(1, 17))
    assert padding.key(text(1, 24)) == padding.key(text(1, 17))


def test_a_batch_is_as_long_as_its_longest_row_and_filled_with_zeros(padding):
    short, long = text(2, 3), text(1, 5)

    joined, own, filled = padding.join([short, long], 3)

    assert joined["ids"].shape == (3, 5)
    np.testing.assert_array_equal(joined["ids"][:2, :3], short["ids"])
    np.testing.assert_array_equal(joined["ids"][2:], long["ids"])
    assert not joined["ids"][:2, 3:].any()
    assert joined["mask"].sum() == 2 * 3 + 5
    assert (own, filled) == (2 * (6 + 5), 2 * 4)


def test_answers_are_cut_back_to_the_length_that_was_asked(padding):
    asked = [text(2, 3), text(1, 5)]
    states = np.random.default_rng(0).random((3, 5, 3))
    parts = [
        {"scores": np.ones((2, 2)), "states": states[:2]},
        {"scores": np.zeros((1, 2)), "states": states[2:]},
    ]

    padding.cut(parts, asked)

    np.testing.assert_array_equal(parts[0]["states"], states[:2, :3])
    np.testing.assert_array_equal(parts[1]["states"], states[2:])
    assert parts[0]["scores"].shape == (2, 2)


def test_a_bucket_holds_the_size_and_wastes_a_third_at_most():
    for size in range(1, 1025):
        held = bucket(size)
        assert held >= size
        assert bucket(held) == held
        assert size <= 8 or held - size <= held / 3
