"""Temporary files of a step: gone with it, and after a kill with the next one."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlserve_cli.cli import temporary

WORKING = """
import sys, tempfile
from mlserve_cli.cli import console
with console.progress():
    place = tempfile.mkdtemp(prefix="half-made-")
    print(place, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go, of this process and of its children."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@pytest.fixture
def working():
    """Start processes that made a temporary folder, and go on until their stdin ends."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", WORKING],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.communicate(timeout=60)


def test_what_a_killed_process_left_goes_with_the_next_step_and_a_living_ones_stays(
    working, scratch
):
    killed, left = working()
    living, used = working()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert left.is_dir()  # nobody could sweep it up
    (left / "pre.quant.model").write_bytes(b"large")

    with temporary.folder():
        assert not left.parent.exists()
        assert used.is_dir()
        assert Path(tempfile.mkdtemp()).parent.parent == scratch

    assert list(scratch.iterdir()) == [used.parent]
    living.communicate(timeout=60)
    assert list(scratch.iterdir()) == []


def test_a_step_that_fails_leaves_nothing(scratch):
    def fail():
        with temporary.folder():
            Path(tempfile.mkdtemp(), "rows").write_bytes(b"")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - our own
        fail()

    assert list(scratch.iterdir()) == []
    assert tempfile.gettempdir() == str(scratch)


def test_what_looks_like_a_folder_of_ours_but_is_none_stays(scratch):
    other = scratch / "precious"
    other.mkdir()
    (scratch / f"{temporary.PREFIX}link").symlink_to(other)
    (scratch / f"{temporary.PREFIX}file").touch()

    with temporary.folder():
        pass

    assert other.is_dir()
    assert len(list(scratch.iterdir())) == 3


def test_a_folder_that_a_sweep_took_before_it_was_locked_is_made_anew(scratch, monkeypatch):
    make, made = tempfile.mkdtemp, []

    def swept(*args, **options):
        made.append(make(*args, **options))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", swept)

    with temporary.folder():
        assert tempfile.gettempdir() == made[1]


def test_where_no_folder_can_be_made_a_step_goes_on(monkeypatch, tmp_path):
    missing = str(tmp_path / "missing")
    monkeypatch.setattr("tempfile.tempdir", missing)

    with temporary.folder():
        assert tempfile.gettempdir() == missing
