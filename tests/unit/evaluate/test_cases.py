import numpy as np
import pytest

from mlserve_cli.errors import DataError, DefinitionError
from mlserve_cli.evaluate import cases
from mlserve_cli.package.definition import Definition


@pytest.fixture
def define(tmp_path):
    def write(text):
        path = tmp_path / "model.py"
        path.write_text(text)
        return Definition.load(path)

    return write


def test_a_definition_yields_inputs_by_name_and_its_targets(define):
    definition = define(
        "def evaluation():\n    yield [[1.0, 2.0]], [3]\n    yield [[4.0, 5.0]], [6]\n"
    )
    first, second = cases.from_definition(definition, ("x",))
    assert first[0]["x"].tolist() == [[1.0, 2.0]]
    assert second[1] == [6]


def test_a_definition_without_targets_is_a_sentence(define):
    definition = define("def evaluation():\n    yield [[1.0]], None\n")
    with pytest.raises(DefinitionError, match="yields None as targets"):
        list(cases.from_definition(definition, ("x",)))


def test_a_package_without_a_definition_has_none(make_package):
    assert cases.definition_of(make_package()) is None


@pytest.fixture
def reading(monkeypatch):
    """Let `from_data` read these batches in place of a file."""

    def give(*batches):
        monkeypatch.setattr("mlserve_cli.evaluate.cases._read", lambda *_, **__: iter(batches))

    return give


def test_targets_of_the_data_win_over_the_reference(make_package, rows_of, reading):
    reading(({"x": rows_of([0, 1])}, np.array([1, 1])))
    ((_, targets),) = cases.from_data(make_package(), "rows.npz", reference=make_package())
    assert targets.tolist() == [1, 1]


def test_the_reference_decides_where_there_are_no_targets(
    make_package, make_engine, rows_of, reading, monkeypatch
):
    engine = make_engine()
    monkeypatch.setattr("mlserve_cli.runtime.engines.open_package", lambda *_: engine)
    reading(({"x": rows_of([0, 1])}, None), ({"x": rows_of([1])}, None))
    found = list(cases.from_data(make_package(), "rows.npz", reference=make_package()))
    assert [targets.values.tolist() for _, targets in found] == [[0, 1], [1]]
    assert engine.closed


def test_neither_targets_nor_a_reference_is_a_sentence(make_package, rows_of, reading):
    reading(({"x": rows_of([0, 1])}, None))
    with pytest.raises(DataError, match=r"'rows.npz' has no targets") as caught:
        list(cases.from_data(make_package(), "rows.npz"))
    assert "--column" in caught.value.hint
