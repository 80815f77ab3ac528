from pathlib import Path

import pytest

from mlserve_cli.errors import DefinitionError
from mlserve_cli.export.ensemble.shapes import infer
from mlserve_cli.export.ensemble.source import Told
from mlserve_cli.export.ensemble.wiring import Wired
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.ensemble.declaration import FunctionStep, OperationStep, PackageStep
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import TensorSpec


def member(inputs, outputs):
    """A package with these signatures: name → (datatype, shape)."""
    inputs, outputs = (
        tuple(TensorSpec(name, kind, shape) for name, (kind, shape) in side.items())
        for side in (inputs, outputs)
    )
    manifest = Manifest(name="m", version="1", variant="v", inputs=inputs, outputs=outputs)
    return Package(Path("m"), manifest)


def runs(name, inputs, outputs):
    return PackageStep(name=name, member=name, inputs=inputs, outputs=outputs)


def does(operation, inputs, output, **parameters):
    return OperationStep(
        name=operation, operation=operation, inputs=inputs, output=output, **parameters
    )


def shape_of(steps, tensor, told=None, **members):
    """The (datatype, shape) of a tensor after the steps."""
    made = {name for step in steps for name in step.makes}
    inputs = tuple(dict.fromkeys(t for step in steps for t in step.takes if t not in made))
    wired = Wired(steps=tuple(steps), inputs=inputs, members=members)
    (spec,) = infer(wired, told or {}).specs((tensor,))
    return spec and (spec.datatype, spec.shape)


FLOATS = {"x": ("FP32", ("n", 4))}, {"y": ("FP32", ("n", 3))}


def test_the_rows_are_called_batch_whatever_the_members_call_them():
    steps = [runs("a", {"x": "x"}, {"y": "y"})]

    assert shape_of(steps, "x", a=member(*FLOATS)) == ("FP32", ("batch", 4))
    assert shape_of(steps, "y", a=member(*FLOATS)) == ("FP32", ("batch", 3))


def test_a_size_that_one_member_fixes_is_fixed_for_all():
    free = member({"x": ("FP32", ("batch", "width"))}, {"y": ("FP32", ("batch", "width"))})
    steps = [runs("a", {"x": "x"}, {"y": "z"}), runs("b", {"x": "x"}, {"y": "y"})]

    assert shape_of(steps, "x", a=free, b=member(*FLOATS)) == ("FP32", ("batch", 4))
    assert shape_of(steps, "z", a=free, b=member(*FLOATS)) == ("FP32", ("batch", 4))


def test_sizes_of_one_name_in_two_members_are_one_only_where_they_share_a_tensor():
    text = member({"ids": ("INT64", ("batch", "length"))}, {"y": ("FP32", ("batch", 8))})
    apart = [runs("a", {"ids": "left"}, {"y": "p"}), runs("b", {"ids": "right"}, {"y": "q"})]
    shared = [runs("a", {"ids": "both"}, {"y": "p"}), runs("b", {"ids": "both"}, {"y": "q"})]

    wired = Wired(steps=tuple(apart), inputs=("left", "right"), members={"a": text, "b": text})
    left, right = infer(wired, {}).specs(("left", "right"))
    assert left.shape == ("batch", "length")
    assert right.shape == ("batch", "length_2")
    assert shape_of(shared, "both", a=text, b=text) == ("INT64", ("batch", "length"))


def test_a_fixed_batch_is_fed_by_pieces_so_any_number_of_rows_goes():
    fours = member({"x": ("FP32", (4, 2))}, {"y": ("FP32", (4, 2))})
    steps = [runs("a", {"x": "x"}, {"y": "y"})]

    assert shape_of(steps, "x", a=fours) == ("FP32", ("batch", 2))
    assert shape_of(steps, "y", a=fours) == ("FP32", ("batch", 2))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (does("softmax", ("y",), "z"), ("FP32", ("batch", 3))),
        (does("argmax", ("y",), "z"), ("INT64", ("batch",))),
        (does("mean", ("y", "y"), "z"), ("FP32", ("batch", 3))),
        (does("concat", ("x", "y"), "z"), ("FP32", ("batch", 7))),
        (does("cast", ("y",), "z", datatype="FP16"), ("FP16", ("batch", 3))),
        (does("reshape", ("x",), "z", shape=(2, -1)), ("FP32", ("batch", 2, 2))),
        (does("reshape", ("x",), "z", shape=(4, 1)), ("FP32", ("batch", 4, 1))),
    ],
)
def test_what_an_operation_makes_is_known_without_running_it(step, expected):
    steps = [runs("a", {"x": "x"}, {"y": "y"}), step]

    assert shape_of(steps, "z", a=member(*FLOATS)) == expected


def test_what_a_function_makes_is_known_only_where_it_is_told():
    call = FunctionStep(name="f", file="f.py", function="f", inputs={"y": "y"}, outputs={"z": "z"})
    steps = [runs("a", {"x": "x"}, {"y": "y"}), call, does("softmax", ("z",), "s")]
    told = {"z": Told(datatype="FP32", shape=["crops", 5])}

    assert shape_of(steps, "s", a=member(*FLOATS)) is None
    assert shape_of(steps, "s", told, a=member(*FLOATS)) == ("FP32", ("crops", 5))


WIDE = {"x": ("FP32", ("batch", 5))}, {"y": ("FP32", ("batch", 5))}
DEEP = {"x": ("FP32", ("batch", 3, 1))}, {"y": ("FP32", ("batch", 3))}
DOUBLES = {"x": ("FP64", ("batch", 3))}, {"y": ("FP64", ("batch", 3))}


@pytest.mark.parametrize(
    ("signature", "takes", "said", "hint"),
    [
        (
            WIDE,
            "y",
            r"step 'b' takes 'y' as \(batch, 5\), and it is \(n, 3\) by step 'a'",
            "reshape",
        ),
        (DEEP, "y", r"'y' as \(batch, 3, 1\), and it is \(n, 3\)", "reshape"),
        (DOUBLES, "y", "takes 'y' as FP64, and it is FP32 by step 'a'", 'datatype = "FP64"'),
        (WIDE, "x", r"'x' as \(batch, 5\), and it is \(n, 4\) by step 'a'", "reshape"),
    ],
)
def test_two_steps_that_take_a_tensor_for_different_things_are_refused(
    signature, takes, said, hint
):
    steps = [runs("a", {"x": "x"}, {"y": "y"}), runs("b", {"x": takes}, {"y": "z"})]

    with pytest.raises(DefinitionError, match=said) as caught:
        shape_of(steps, "z", a=member(*FLOATS), b=member(*signature))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (does("mean", ("x", "y"), "z"), r"'y' as \(n, 4\), and it is \(n, 3\)"),
        (does("softmax", ("y",), "z", axis=2), "axis 2 of a tensor with 2"),
        (does("softmax", ("y",), "z", axis=-2), "axis -2 of a tensor with 2"),
        (does("reshape", ("x",), "z", shape=(3, -1)), "reshapes rows of 4 numbers to"),
        (does("mean", ("x", "other"), "z"), "nothing tells what the input 'other' is"),
    ],
)
def test_an_operation_that_cannot_be_done_is_refused_before_anything_runs(step, said):
    steps = [runs("a", {"x": "x"}, {"y": "y"}), step]

    with pytest.raises(DefinitionError, match=said):
        shape_of(steps, "z", a=member(*FLOATS))


def test_a_mean_of_whole_numbers_asks_for_a_cast():
    whole = member({"x": ("FP32", ("n", 4))}, {"y": ("INT64", ("n", 3))})
    steps = [runs("a", {"x": "x"}, {"y": "y"}), does("mean", ("y", "y"), "z")]

    with pytest.raises(DefinitionError, match="takes 'y', which is INT64") as caught:
        shape_of(steps, "z", a=whole)
    assert "cast" in caught.value.hint


def test_an_operation_may_read_an_input_before_the_member_that_tells_its_shape():
    steps = [does("softmax", ("x",), "s"), runs("a", {"x": "x"}, {"y": "y"})]

    assert shape_of(steps, "s", a=member(*FLOATS)) == ("FP32", ("batch", 4))
