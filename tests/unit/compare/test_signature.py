"""Two packages answer the same questions, or a sentence says which they do not."""

from dataclasses import dataclass

import pytest

from mlserve_cli.package.signature import difference
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import TensorSpec

X, Y = TensorSpec("x", "FP32", ("batch", 3)), TensorSpec("y", "FP32", ("batch", 2))


@dataclass
class Bare:
    manifest: Manifest


def package(*, inputs=(X,), outputs=(Y,), labels=()):
    return Bare(
        Manifest(name="m", version="1", variant="v", inputs=inputs, outputs=outputs, labels=labels)
    )


def compare(first, second):
    return difference(first, second, ("a", "b"))


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", "FP32", ("rows", 3)),
        TensorSpec("x", "FP32", (1, 3)),
        TensorSpec("x", "FP32", ("batch", "width")),
    ],
)
def test_what_no_row_could_tell_apart_is_no_difference(spec):
    assert compare(package(), package(inputs=(spec,))) is None
    assert compare(package(inputs=(spec,)), package()) is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TensorSpec("x", "FP64", ("batch", 3)), "FP64 (batch, 3) in 'b'"),
        (TensorSpec("x", "FP32", ("batch", 4)), "FP32 (batch, 4) in 'b'"),
        (TensorSpec("x", "FP32", ("batch", 3, 1)), "FP32 (batch, 3, 1) in 'b'"),
    ],
)
def test_another_type_rank_or_size_is_named_on_both_sides(spec, said):
    text = compare(package(), package(inputs=(spec,)))

    assert text == f"input 'x' is FP32 (batch, 3) in 'a' and {said}."


def test_an_output_that_only_one_has_is_named_with_who_has_it():
    more = package(outputs=(Y, TensorSpec("z", "FP32", ("batch", 2))))

    assert compare(package(), more) == "'b' has the output 'z', and 'a' has none of that name."
    assert compare(more, package()) == "'a' has the output 'z', and 'b' has none of that name."


def test_labels_matter_in_their_order_and_only_where_both_have_some():
    named = package(labels=("cat", "dog"))

    assert compare(named, package()) is None
    assert compare(named, named) is None
    assert "class 0 is 'cat' in 'a' and 'dog' in 'b'" in compare(
        named, package(labels=("dog", "cat"))
    )
    assert "2 labels and 'b' 3" in compare(named, package(labels=("cat", "dog", "emu")))
