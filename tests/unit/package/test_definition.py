"""A definition's mistakes are sentences with the line they come from."""

import sys

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError
from mlserve_cli.package.definition import Definition, named, to_array


@pytest.fixture
def define(tmp_path):
    def write(text):
        path = tmp_path / "model.py"
        path.write_text(text)
        return Definition.load(path)

    return write


def test_a_missing_file_points_to_init(tmp_path):
    with pytest.raises(DefinitionError, match="does not exist") as refused:
        Definition.load(tmp_path / "model.py")

    assert "mlserve init" in refused.value.hint


def test_a_library_that_is_missing_is_to_be_installed_for_this_python(define):
    with pytest.raises(DefinitionError) as refused:
        define("import nowhere_to_be_found.inside\n")

    assert "'nowhere_to_be_found'" in refused.value.hint
    assert sys.executable in refused.value.hint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def model(:\n", "raised SyntaxError at line 1"),
        ("x = 1\nimport nowhere_to_be_found\n", "raised ModuleNotFoundError at line 2"),
        ("\n\n1 / 0\n", "raised ZeroDivisionError at line 3: division by zero"),
        ("import sys\nsys.exit(3)\n", "raised SystemExit at line 2"),
    ],
)
def test_what_a_definition_raises_while_it_is_read_names_the_line(define, text, sentence):
    with pytest.raises(DefinitionError, match=sentence):
        define(text)


def test_a_definition_without_model_says_what_model_is(define):
    definition = define("x = 1\n")

    with pytest.raises(DefinitionError, match=r"has no function model\(\)") as refused:
        definition.function("model")

    assert "trained model" in refused.value.hint


def test_what_a_function_raises_names_the_line_in_the_users_file(define):
    definition = define(
        "def model():\n    return deeper()\n\ndef deeper():\n    raise KeyError('w')\n"
    )

    with pytest.raises(DefinitionError, match="raised KeyError at line 5"):
        definition.function("model")()


def test_a_generator_that_fails_in_the_middle_is_told_too(define):
    definition = define("def training():\n    yield [1], [0]\n    raise ValueError('no more')\n")
    pairs = definition.pairs("training")

    assert next(pairs) == ([1], [0])
    with pytest.raises(DefinitionError, match="raised ValueError at line 3: no more"):
        next(pairs)


def test_a_batch_that_is_no_pair_is_refused(define):
    definition = define("def evaluation():\n    yield [1, 2, 3]\n")

    with pytest.raises(DefinitionError, match=r"must yield \(inputs, targets\)"):
        list(definition.pairs("evaluation"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("METRIC = {'nam': 'x'}\n", "METRIC of .* is wrong"),
        ("METRIC = 'accuracy'\n", "METRIC of .* is wrong"),
    ],
)
def test_a_constant_of_the_wrong_form_is_named(define, text, sentence):
    with pytest.raises(DefinitionError, match=sentence):
        _ = define(text).metric


def test_processing_of_an_unknown_kind_is_named(define):
    definition = define("PROCESSING = {'input': {'kind': 'video', 'tensor': 'x'}}\n")

    with pytest.raises(DefinitionError, match=r"PROCESSING of .* is wrong: .*video"):
        _ = definition.processing


@pytest.mark.parametrize("name", ["../secret.txt", "missing.txt", "/etc/passwd"])
def test_files_cannot_name_what_lies_elsewhere(define, name):
    with pytest.raises(DefinitionError, match="no file beside it"):
        _ = define(f"FILES = [{name!r}]\n").files


def test_two_definitions_of_the_same_name_live_side_by_side(tmp_path):
    values = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(f"NAME = {folder!r}\n")
        values.append(Definition.load(tmp_path / folder / "model.py"))

    assert [definition.value("NAME") for definition in values] == ["one", "two"]


def test_inputs_are_taken_as_array_tuple_or_dict():
    a, b = np.zeros((2, 3)), np.ones((2, 1))

    assert list(named(a, ("x",), what="sample()")) == ["x"]
    assert list(named((a, b), ("x", "y"), what="sample()")) == ["x", "y"]
    assert list(named({"y": b, "x": a}, ("x", "y"), what="sample()")) == ["x", "y"]


@pytest.mark.parametrize(
    ("value", "names", "sentence"),
    [
        ((np.zeros(2),), ("x", "y"), "has 1 inputs, and the model takes 2: x, y"),
        (np.zeros(2), ("x", "y"), "has one input, and the model takes 2"),
        ({"z": np.zeros(2)}, ("x",), "has the inputs z, and the model takes x"),
        ((np.zeros(2), np.zeros(3)), ("x", "y"), "of the same size in every input"),
        (np.float32(1), ("x",), "must have a first dimension"),
        (np.zeros((0, 3)), ("x",), "must have a first dimension"),
    ],
)
def test_inputs_that_do_not_fit_are_told_apart(value, names, sentence):
    with pytest.raises(DefinitionError, match=sentence):
        named(value, names, what="sample()")


def test_text_becomes_bytes():
    assert to_array(["grüß", b"raw"]).tolist() == ["grüß".encode(), b"raw"]


def test_reading_a_definition_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "net.py").write_text("WIDTH = 8\n")
    (tmp_path / "model.py").write_text("from net import WIDTH\n")

    assert Definition.load(tmp_path / "model.py").value("WIDTH") == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.py", "net.py"]


def test_a_function_that_yields_nothing_but_returns_a_number_is_a_sentence(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("def training(): return 5\n", encoding="utf-8")
    with pytest.raises(DefinitionError, match="returns int"):
        list(Definition.load(path).pairs("training"))
