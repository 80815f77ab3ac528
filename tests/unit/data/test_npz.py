import io

import numpy as np
import pytest

from mlserve_cli.errors import DataError

ROWS = np.arange(10, dtype=np.float64).reshape(5, 2)


@pytest.fixture
def save(tmp_path):
    def save(compressed=False, **arrays):
        path = tmp_path / "a.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays)
        return path

    return save


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_streamed_by_input_name(load, save, make_manifest, compressed):
    path = save(compressed, x=ROWS, label=np.arange(5, dtype=np.uint8), other=np.zeros(3))
    batches = load(path, make_manifest(), batch=2)
    assert [batch.size for batch in batches] == [2, 2, 1]
    whole = np.concatenate([batch.inputs["x"] for batch in batches])
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, ROWS)
    targets = np.concatenate([batch.targets for batch in batches])
    assert targets.dtype == np.int64
    np.testing.assert_array_equal(targets, np.arange(5))


def test_one_array_for_one_input_may_have_any_name(load, save, make_manifest):
    (batch,) = load(save(features=ROWS, y=np.ones(5)), make_manifest())
    np.testing.assert_array_equal(batch.inputs["x"], ROWS)


def test_columns_first_in_memory_are_read_as_the_rows_they_are(load, save, make_manifest):
    (batch,) = load(save(x=np.asfortranarray(ROWS)), make_manifest())
    np.testing.assert_array_equal(batch.inputs["x"], ROWS)


def test_text_becomes_bytes(load, save, make_manifest):
    manifest = make_manifest(("x", "BYTES", ()), labels=("no", "yes"))
    (batch,) = load(save(x=np.array(["a", "ü"]), y=np.array(["yes", "no"])), manifest)
    assert batch.inputs["x"].tolist() == [b"a", "ü".encode()]
    np.testing.assert_array_equal(batch.targets, [1, 0])


def test_object_arrays_are_refused_and_never_unpickled(load, tmp_path, make_manifest):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    path = tmp_path / "a.npz"
    raw = np.empty(1, dtype=object)
    raw[0] = Bomb()
    np.savez(path, x=raw, allow_pickle=True)
    with pytest.raises(DataError, match=r"array 'x' of .* holds Python objects, which are never"):
        load(path, make_manifest())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ROWS, "y": np.ones(4)}, "different numbers of rows: 'x' 5, 'y' 4"),
        ({"x": ROWS[:0]}, "holds no rows"),
        ({"x": np.float32(1)}, "is a single value, with no rows"),
        ({"a": ROWS, "b": ROWS}, "has no array 'x'"),
        ({"x": ROWS[:, :1]}, r"Expected \[-1,2\], got \[5,1\]"),
        ({"x": ROWS.astype(np.complex64)}, "complex64 would lose something"),
        ({"x": np.array([["a", "b"]])}, "would lose something"),
    ],
)
def test_a_file_that_is_wrong_is_an_error_that_says_how(load, save, make_manifest, arrays, message):
    with pytest.raises(DataError, match=message):
        load(save(**arrays), make_manifest())


def test_numbers_that_do_not_fit_the_datatype_are_refused(load, save, make_manifest):
    manifest = make_manifest(("x", "UINT8", (2,)))
    with pytest.raises(DataError, match="goes from 0 to 255, and the data from -1 to 300"):
        load(save(x=np.array([[-1, 300]])), manifest)


def test_a_file_that_is_cut_short_is_an_error(load, save, make_manifest):
    path = save(x=np.random.default_rng(0).normal(size=(500, 2)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"is no whole \.npz file"):
        load(path, make_manifest())


def test_an_archive_without_arrays_is_an_error(load, tmp_path, make_manifest):
    import zipfile

    content = io.BytesIO()
    zipfile.ZipFile(content, "w").close()
    path = tmp_path / "a.npz"
    path.write_bytes(content.getvalue())
    with pytest.raises(DataError, match="is empty: it holds no arrays"):
        load(path, make_manifest())
