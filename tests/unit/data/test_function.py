import pytest

from mlserve_cli.errors import DataError, DefinitionError


def source(body):
    return "import numpy as np\n\ndef rows():\n" + "".join(f"    {line}\n" for line in body)


def test_arrays_pairs_and_dicts_are_taken(load, write, make_manifest):
    body = [
        "yield np.ones((2, 2))",
        "yield np.zeros((1, 2)), [1]",
        "yield {'x': np.ones((1, 2))}, np.array([0])",
    ]
    path = write("rows.py", source(body))
    batches = load(f"{path}:rows", make_manifest())
    assert [batch.size for batch in batches] == [2, 1, 1]
    assert batches[0].targets is None
    assert [batch.targets.tolist() for batch in batches[1:]] == [[1], [0]]


def test_a_pair_of_arrays_is_two_inputs_where_the_model_has_two(load, write, make_manifest):
    manifest = make_manifest(("a", "FP32", (2,)), ("b", "FP32", (1,)))
    body = [
        "yield np.ones((2, 2)), np.zeros((2, 1))",
        "yield (np.ones((1, 2)), np.ones((1, 1))), [3]",
    ]
    path = write("rows.py", source(body))
    first, second = load(f"{path}:rows", manifest)
    assert first.targets is None
    assert first.inputs["b"].tolist() == [[0], [0]]
    assert second.targets.tolist() == [3]


def test_large_batches_are_cut(load, write, make_manifest):
    path = write("rows.py", source(["yield np.ones((5, 2)), np.arange(5)"]))
    batches = load(f"{path}:rows", make_manifest(), batch=2)
    assert [batch.targets.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (["yield np.ones((2, 3))"], r"batch 1 of rows.py:rows do not fit"),
        (["yield np.ones((2, 2)), [1]"], "has 2 rows and 1 targets"),
        (["return", "yield"], "yields nothing"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_batch(
    load, write, make_manifest, body, message
):
    path = write("rows.py", source(body))
    with pytest.raises(DataError, match=message):
        load(f"{path}:rows", make_manifest())


def test_what_the_function_raises_is_told_with_its_line(load, write, make_manifest):
    path = write("rows.py", source(["yield np.ones((1, 2))", "raise ValueError('no more')"]))
    with pytest.raises(DefinitionError, match="raised ValueError at line 5: no more"):
        load(f"{path}:rows", make_manifest())


def test_a_function_that_is_not_there_is_an_error(load, write, make_manifest):
    path = write("rows.py", source(["yield 1"]))
    with pytest.raises(DataError, match=r"has no function other\(\)"):
        load(f"{path}:other", make_manifest())
