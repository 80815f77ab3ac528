"""Golden predictions survive the disk, whatever they are made of, and nothing is unpickled."""

import io
import zipfile

import numpy as np
import pytest

from mlserve_cli.errors import PackageError
from mlserve_cli.package import golden
from mlserve_cli.runtime.golden import Golden, read, relative_difference


def text(*items):
    array = np.empty(len(items), dtype=np.object_)
    array[:] = items
    return array


def test_numbers_and_bytes_come_back_as_they_were(tmp_path):
    before = Golden(
        {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "t": text(b"a\x00\x00", b"")},
        {"y": np.array([1, 2], np.int64)},
    )

    golden.write(tmp_path, before)
    after = read(tmp_path)

    assert after.inputs["x"].dtype == np.float16
    np.testing.assert_array_equal(after.inputs["x"], before.inputs["x"])
    assert after.inputs["t"].tolist() == [b"a\x00\x00", b""]
    assert after.outputs["y"].tolist() == [1, 2]


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    predictions = Golden({"x": np.ones((3, 2), np.float32)}, {"y": np.zeros(3)})
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        golden.write(tmp_path / name, predictions)
        written.append((tmp_path / name / "golden.npz").read_bytes())

    assert written[0] == written[1]


def test_a_pickle_inside_is_refused(tmp_path):
    harmful = np.array([{"any": "object"}], dtype=object)
    np.savez(tmp_path / "golden.npz", **{"input.x": harmful, "output.y": harmful})

    with pytest.raises(PackageError, match="cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY"])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    (tmp_path / "golden.npz").write_bytes(content)

    with pytest.raises(PackageError, match=r"golden\.npz' cannot be read"):
        read(tmp_path)


def test_a_large_sample_is_cut_to_a_few_rows_and_a_small_one_kept():
    wide = {"x": np.zeros((64, 3, 224, 224), np.float32)}
    narrow = {"x": np.zeros((5, 4), np.float32)}

    assert golden.choose(wide)["x"].nbytes <= golden.LIMIT_BYTES
    assert golden.choose(narrow)["x"].shape == (5, 4)
    assert golden.choose({"x": np.zeros((1, 1 << 24), np.float32)})["x"].shape[0] == 1


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.2], 0.1),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([np.inf, 2.0], [np.inf, 2.0], 0.0),
        ([1.0], [1.0, 2.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_the_difference_is_relative_to_the_largest_value(expected, found, difference):
    assert relative_difference(np.array(expected), np.array(found)) == pytest.approx(difference)


def test_whole_numbers_and_text_differ_by_the_share_that_is_not_equal():
    assert relative_difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert relative_difference(text(b"a", b"b"), text(b"a", b"c")) == 0.5


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    np.savez_compressed(
        tmp_path / "golden.npz", **{"input.x": np.zeros((1 << 20,)), "output.y": np.zeros(1)}
    )
    with pytest.raises(PackageError, match="is packed, and it must be stored"):
        read(tmp_path)


def test_a_shape_that_fits_no_memory_is_refused(tmp_path):
    member = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": (10**14,)}
    np.lib.format.write_array_header_1_0(member, facts)
    with zipfile.ZipFile(tmp_path / "golden.npz", "w") as archive:
        archive.writestr("input.x.npy", member.getvalue())
    with pytest.raises(PackageError, match=r"golden\.npz' cannot be read"):
        read(tmp_path)


def test_one_array_is_no_archive_of_them(tmp_path):
    with (tmp_path / "golden.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(PackageError, match=r"golden\.npz' cannot be read"):
        read(tmp_path)


def test_predictions_of_no_rows_prove_nothing(tmp_path):
    golden.write(tmp_path, Golden({"x": np.zeros((0, 2))}, {"y": np.zeros((0, 2))}))
    with pytest.raises(PackageError, match="of no rows"):
        read(tmp_path)


def test_a_scalar_and_a_state_are_kept_as_they_are(tmp_path):
    request = {
        "x": np.ones((1, 5), np.float32),
        "state": np.zeros((2, 1, 4), np.float32),
        "rate": np.array(16000),
    }
    assert golden.choose(request) is request

    golden.write(tmp_path, Golden(request, {"y": np.ones((1, 1), np.float32)}))

    kept = read(tmp_path).inputs
    assert {name: array.shape for name, array in kept.items()} == {
        name: array.shape for name, array in request.items()
    }
