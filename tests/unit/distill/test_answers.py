import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.distill import answers as kept
from mlserve_cli.distill.answers import Answers, hashes, key_of
from mlserve_cli.runtime.manifest import Manifest, PaddingProof
from mlserve_cli.runtime.tensors import TensorSpec


def manifest(*, harmless=True):
    ids, mask = (TensorSpec(name, "INT64", ("batch", "length")) for name in ("ids", "mask"))
    return Manifest(
        name="text",
        version="1",
        variant="fp32",
        inputs=(ids, mask),
        outputs=(TensorSpec("scores", "FP32", ("batch", 3)),),
        padding=PaddingProof(harmless=harmless, dimensions=("length",), largest=64),
    )


def padded(texts, length):
    batch = {name: np.zeros((len(texts), length), np.int64) for name in ("ids", "mask")}
    for row, text in enumerate(texts):
        batch["ids"][row, : len(text)] = text
        batch["mask"][row, : len(text)] = 1
    return batch


texts = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=8)


@given(texts, st.integers(6, 9), st.integers(6, 9))
def test_equal_rows_have_equal_hashes_however_they_are_filled_up(rows, short, long):
    found = hashes(padded(rows, short), manifest())
    assert found == hashes(padded(rows, long), manifest())
    # A row of other tokens, or of another length, is another one: the mask tells zeros apart.
    assert len(set(found)) == len({tuple(row) for row in rows})


def test_rows_that_padding_would_change_are_told_apart_by_their_length():
    rows = [[1, 2]]
    assert hashes(padded(rows, 3), manifest(harmless=False)) != hashes(
        padded(rows, 4), manifest(harmless=False)
    )


def test_what_was_kept_is_found_again_by_another_process(tmp_path):
    keys = [(1, 2), (3, 4), (5, 6)]
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    first = Answers("teacher", tmp_path)
    first.keep(keys, values)
    assert [each.tolist() for each in first.find(keys)] == values.tolist()  # before it is written
    first.flush()
    found = Answers("teacher", tmp_path).find([*keys[::-1], (7, 8)])
    assert [each.tolist() for each in found[:3]] == values[::-1].tolist()
    assert found[3] is None
    assert Answers("another", tmp_path).find(keys) == [None] * 3


def test_a_damaged_file_of_answers_is_as_good_as_missing(tmp_path):
    answers = Answers("teacher", tmp_path)
    answers.keep([(1, 2)], np.ones((1, 3), np.float32))
    answers.flush()
    (file,) = (tmp_path / "teacher").glob("*.answers.npy")
    file.write_bytes(file.read_bytes()[:-4])
    again = Answers("teacher", tmp_path)
    assert again.find([(1, 2)]) == [None]
    again.keep([(1, 2)], np.zeros((1, 3), np.float32))
    again.flush()
    assert Answers("teacher", tmp_path).find([(1, 2)])[0].tolist() == [0, 0, 0]


def test_a_place_that_cannot_be_written_is_told_and_no_error(tmp_path):
    (tmp_path / "teacher").write_text("a file, where a folder should be")
    answers = Answers("teacher", tmp_path)
    answers.keep([(1, 2)], np.ones((1, 3), np.float32))
    answers.flush()
    assert "not kept" in answers.trouble


@pytest.mark.parametrize("count", [12])
def test_only_the_youngest_teachers_answers_stay(tmp_path, count):
    for index in range(count):
        answers = Answers(f"teacher-{index}", tmp_path)
        answers.keep([(1, 2)], np.ones((1, 3), np.float32))
        answers.flush()
    assert len(list(tmp_path.iterdir())) <= 10
    assert (tmp_path / f"teacher-{count - 1}").is_dir()


@pytest.mark.parametrize(
    "change", [{"engine": "torch"}, {"engine": "openvino"}, {"precision": "bf16"}, {"digest": "1"}]
)
def test_answers_of_another_engine_or_precision_are_kept_apart(change):
    assert key_of(manifest()) == key_of(manifest())
    assert key_of(msgspec.structs.replace(manifest(), **change)) != key_of(manifest())


@pytest.mark.parametrize("library", kept.LIBRARIES)
def test_another_version_of_what_computes_is_another_teacher(monkeypatch, library):
    before, version = key_of(manifest()), kept._version
    monkeypatch.setattr(kept, "_version", lambda name: "99" if name == library else version(name))
    assert key_of(manifest()) != before


def test_an_engine_of_ones_own_is_known_by_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    own = msgspec.structs.replace(manifest(), engine="my_engine_of_answers:Mine")
    (tmp_path / "my_engine_of_answers.py").write_text("class Mine: ...")
    before = key_of(own)
    (tmp_path / "my_engine_of_answers.py").write_text("class Mine: better = True")
    assert key_of(own) != before
