import json

import msgspec
import pytest

from mlserve_cli.runtime.ensemble import declaration
from mlserve_cli.runtime.ensemble.declaration import SCHEMA, Ensemble, read
from mlserve_cli.runtime.errors import PackageError
from mlserve_cli.runtime.tensors import TensorSpec

SPEC = TensorSpec("in", "FP64", ("batch", 2))
OUT = TensorSpec("out", "FP64", ("batch", 2))


@pytest.fixture
def written(tmp_path, runs):
    """An ensemble.json, with fields of the test's choice."""

    def write(**fields):
        plain = Ensemble(inputs=(SPEC,), outputs=(OUT,), steps=(runs("double", "in", "out"),))
        path = tmp_path / "ensemble.json"
        path.write_text(json.dumps(msgspec.to_builtins(plain) | fields))
        return path

    return write


def test_what_is_written_is_read_again(tmp_path, runs, calls, does):
    ensemble = Ensemble(
        inputs=(SPEC,),
        outputs=(OUT,),
        steps=(
            runs("double", "in", "twice"),
            calls("crop", ["twice"], ["crops"]),
            does("mean", ["twice", "crops"], "out", weights=(1.0, 2.0)),
        ),
        requirements=("scipy",),
    )
    (tmp_path / "ensemble.json").write_bytes(ensemble.to_json())

    assert read(tmp_path / "ensemble.json") == ensemble


def test_a_newer_schema_is_refused_before_its_fields_are_read(written):
    with pytest.raises(PackageError, match=f"schema {SCHEMA + 1}, and this mlserve reads up to"):
        read(written(schema=SCHEMA + 1, unheard_of=True))


@pytest.mark.parametrize("fields", [{"steps": 3}, {"unheard_of": 1}, {"steps": [{"kind": "x"}]}])
def test_a_damaged_file_is_a_sentence(written, fields):
    with pytest.raises(PackageError, match="is damaged"):
        read(written(**fields))


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(PackageError, match="cannot be read"):
        read(tmp_path / "ensemble.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("member", "../../elsewhere"), ("member", "/etc"), ("name", "a/b"), ("member", "..")],
)
def test_a_name_that_would_leave_the_package_is_refused(written, runs, field, value):
    step = {"kind": "package", "name": "double", "member": "double", "inputs": {"x": "in"}}
    step |= {"outputs": {"y": "out"}, field: value}
    with pytest.raises(PackageError, match="cannot be a"):
        read(written(steps=[step]))


def test_a_function_file_outside_its_folder_is_refused(written):
    step = {"kind": "function", "name": "f", "file": "../evil.py", "function": "f"}
    step |= {"inputs": {"in": "in"}, "outputs": {"out": "out"}}
    with pytest.raises(PackageError, match=r"'\.\./evil\.py' cannot be a file of a function"):
        read(written(steps=[step]))


@pytest.mark.parametrize(
    ("takes", "makes", "outputs", "said", "hint"),
    [
        ([], [], ["out"], "has none", "steps"),
        (["in"], ["out"], [], "answers at least one tensor", "outputs ="),
        (["in", "b"], ["a", "out"], ["out"], "'b', which is no input", "until then"),
        (["in", "imn"], ["im", "out"], ["out"], "'imn', which is no input", "did you mean"),
        (["b", "in"], ["out", "b"], ["out"], "'b', which only the later step 's1' makes", "order"),
        (["out"], ["out"], ["out"], "'out', which it makes itself", "another name"),
        (["in", "in"], ["out", "out"], ["out"], "makes 'out', and so does step 's0'", "another"),
        (["in"], ["in"], ["in"], "'in', which it makes itself|is an input", "another name"),
        (["in"], ["out"], ["outt"], "answers 'outt', which no step makes", "did you mean 'out'"),
        (["in"], ["out"], ["out", "out"], "name a tensor twice", None),
        (["in"], ["out"], ["in"], "answers 'in', which no step makes", "the steps make out"),
    ],
)
def test_steps_that_do_not_fit_together_are_refused(runs, takes, makes, outputs, said, hint):
    steps = [
        runs(f"s{number}", *tensors)
        for number, tensors in enumerate(zip(takes, makes, strict=True))
    ]
    with pytest.raises(PackageError, match=said) as caught:
        declaration.check(steps, ["in"], outputs)
    assert hint is None or hint in caught.value.hint


def test_two_steps_of_one_name_are_refused(runs):
    with pytest.raises(PackageError, match="two steps are called 'a'") as caught:
        declaration.check([runs("a", "in", "b"), runs("a", "b", "out")], ["in"], ["out"])
    assert "name =" in caught.value.hint


def test_an_input_that_no_step_takes_is_refused(runs):
    with pytest.raises(PackageError, match="no step takes the input 'inn'") as caught:
        declaration.check([runs("a", "in", "out")], ["in", "inn"], ["out"])
    assert caught.value.hint == "did you mean 'in'?"
