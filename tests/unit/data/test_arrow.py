import numpy as np
import pytest

from mlserve_cli.errors import DataError

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")

COLUMNS = {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0], "target": [0, 1, 0]}


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather"])
def test_columns_become_a_matrix_and_the_target_stands_apart(load, make_manifest, tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table(COLUMNS), path)
    elif ending == "feather":
        feather.write_feather(pa.table(COLUMNS), path)
    else:
        with pa.ipc.new_stream(path, pa.table(COLUMNS).schema) as file:
            file.write_table(pa.table(COLUMNS))
    first, second = load(path, make_manifest(), batch=2)
    np.testing.assert_array_equal(first.inputs["x"], [[1, 4], [2, 5]])
    np.testing.assert_array_equal(second.inputs["x"], [[3, 6]])
    assert [*first.targets, *second.targets] == [0, 1, 0]


def test_null_and_a_damaged_file_are_sentences(load, make_manifest, tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(COLUMNS | {"b": [4.0, None, 6.0]}), path)
    with pytest.raises(DataError, match="row 2: column 'b' is empty"):
        load(path, make_manifest())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"'.*rows.parquet' cannot be read: "):
        load(path, make_manifest())
