"""A package appears whole or not at all."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from mlserve_cli.errors import PackageError
from mlserve_cli.package.draft import create, hidden_beside, sweep, writing
from mlserve_cli.runtime.manifest import Manifest

EMPTY = Manifest(name="m", version="1", variant="fp32", inputs=(), outputs=())


def make(target, content=b"weights", **options):
    with create(target, **options) as draft:
        (draft.serve / "model.onnx").write_bytes(content)
        return draft.seal(EMPTY)


def test_nothing_stands_at_the_target_before_the_draft_is_whole(tmp_path):
    target = tmp_path / "deep" / "package"
    with create(target) as draft:
        (draft.serve / "model.onnx").write_bytes(b"weights")
        assert not target.exists()
        draft.seal(EMPTY)

    assert (target / "serve" / "model.onnx").read_bytes() == b"weights"


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_draft_that_fails_or_is_interrupted_leaves_nothing(tmp_path, error):
    def fail():
        with create(tmp_path / "package") as draft:
            (draft.serve / "model.onnx").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    def fill():
        with create(tmp_path / "package") as draft:
            (draft.serve / "model.onnx").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PackageError, match="No space left") as refused:
        fill()

    assert "free some space" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused_before_any_work(tmp_path):
    make(tmp_path / "package")

    with pytest.raises(PackageError, match="exists already"), create(tmp_path / "package"):
        pytest.fail("the work was begun")


def test_force_replaces_a_package_and_leaves_no_trace_of_the_old_one(tmp_path):
    make(tmp_path / "package", b"old")
    make(tmp_path / "package", b"new", overwrite=True)

    assert (tmp_path / "package" / "serve" / "model.onnx").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_force_that_fails_keeps_the_old_package(tmp_path):
    make(tmp_path / "package", b"old")
    with pytest.raises(ValueError, match="broken"), create(tmp_path / "package", overwrite=True):
        raise ValueError("broken")

    assert (tmp_path / "package" / "serve" / "model.onnx").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_force_never_replaces_a_folder_that_is_no_package(tmp_path):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")

    with pytest.raises(PackageError, match="is not a package"), create(precious, overwrite=True):
        pytest.fail("the work was begun")

    assert (precious / "thesis.txt").read_text() == "years"


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(PackageError, match="cannot be written"), create(tmp_path / "file" / "p"):
        pytest.fail("the work was begun")


def test_every_file_is_listed_with_its_size_and_hash(tmp_path):
    sealed = make(tmp_path / "package")

    entry = sealed.files["serve/model.onnx"]
    assert entry.size == 7
    assert len(entry.sha256) == 64
    assert Path(tmp_path / "package" / "manifest.json").is_file()


def test_what_is_left_hidden_is_swept_up_be_it_file_or_folder(tmp_path):
    with hidden_beside(tmp_path / "a") as hidden:
        hidden.write_bytes(b"half")
    with hidden_beside(tmp_path / "b") as hidden:
        (hidden / "inner").mkdir(parents=True)

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_writes_is_told_by_the_first_error_alone(tmp_path, monkeypatch):
    refused = OSError(errno.EROFS, "Read-only file system")

    def refuse(*_, **__):
        raise refused

    def write():
        with writing(tmp_path / "a"), hidden_beside(tmp_path / "a") as hidden:
            hidden.write_bytes(b"half")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(PackageError, match="Read-only file system") as found:
        write()

    assert found.value.hint == "write to another disk: this one takes no writes"


WRITING = """
import sys
from pathlib import Path
from mlserve_cli.package.draft import create
with create(Path(sys.argv[1])) as draft:
    (draft.serve / "model.onnx").write_bytes(b"half")
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_goes_with_the_next_and_a_living_ones_stays(tmp_path):
    target = tmp_path / "package"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, str(target)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        assert [writer.stdout.readline() for writer in writers] == [b"begun\n"] * 2
        assert len(list(tmp_path.iterdir())) == 2
        writers[0].kill()
        writers[0].wait()
        assert len(list(tmp_path.iterdir())) == 2  # nobody could sweep it up

        make(target)

        left = [path for path in tmp_path.iterdir() if path != target]
        assert len(left) == 1
        assert (left[0] / "package" / "serve" / "model.onnx").is_file()
    finally:
        for writer in writers:
            writer.communicate()
    assert list(tmp_path.iterdir()) == [target]


def test_the_folder_of_a_package_need_not_be_there(tmp_path):
    make(tmp_path / "new" / "package")

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["package"]


def test_what_was_moved_away_by_a_killed_writer_comes_back_whatever_its_name_is(tmp_path):
    target = tmp_path / "package [1]"
    make(target)
    target.rename(tmp_path / f".{target.name}.01234567.old")
    (tmp_path / f".{target.name}.01234567.part").mkdir()

    sweep(target)

    assert list(tmp_path.iterdir()) == [target]
    assert (target / "serve" / "model.onnx").read_bytes() == b"weights"
