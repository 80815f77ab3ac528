"""Errors and signals become a sentence and an exit status, in one place."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from mlserve_cli.cli import interruption, main
from mlserve_cli.errors import DataError, EngineError, StartupError
from mlserve_cli.package.draft import create


@pytest.fixture(autouse=True)
def _handlers():
    """Put the signal handlers back that `watch` replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def ended(monkeypatch, capsys):
    """Run the command line with this in place of the commands → (exit status, stderr)."""

    def run(command):
        monkeypatch.setattr(main, "app", lambda **_: command())
        with pytest.raises(SystemExit) as stopped:
            main.run()
        return stopped.value.code, capsys.readouterr().err

    return run


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status"), [(DataError("no.", hint="try"), 1), (StartupError("no.", hint="try"), 3)]
)
def test_an_error_of_ours_is_a_sentence_a_hint_and_its_status(ended, error, status):
    assert ended(raising(error)) == (status, "error: no.\nhint: try\n")


def test_a_disk_that_fails_is_no_bug_of_ours(ended):
    status, text = ended(raising(OSError(errno.ENOSPC, "No space left on device", "/tmp/x")))

    assert status == 1
    assert "error: '/tmp/x' cannot be used: No space left on device." in text
    assert "this is a bug" not in text


def test_what_nobody_foresaw_is_called_a_bug_without_a_traceback(ended):
    status, text = ended(raising(ZeroDivisionError("division by zero")))

    assert status == 1
    assert "error: mlserve failed: ZeroDivisionError: division by zero" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_sweeps_up_what_is_half_written(ended, tmp_path, number, status):
    def command():
        with create(tmp_path / "package") as draft:
            (draft.serve / "model.onnx").write_bytes(b"half")
            os.kill(os.getpid(), number)

    found, text = ended(command)

    assert (found, text) == (status, "interrupted; nothing half written was left behind\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ImportError("initialization failed"), EngineError("no.")])
def test_a_library_that_makes_another_error_of_ctrl_c_does_not_hide_it(ended, error):
    def command():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    status, text = ended(command)

    assert (status, text) == (130, "interrupted; nothing half written was left behind\n")


def test_a_signal_that_the_shell_has_us_ignore_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    received = interruption.watch()
    os.kill(os.getpid(), signal.SIGINT)

    assert received == []


_MLSERVE = "from mlserve_cli.cli.main import run; run()"


def _run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-c", _MLSERVE, *arguments, "--json"],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
    )


def test_what_a_definition_prints_does_not_spoil_the_json_document(iris_onnx, tmp_path):
    (tmp_path / "model.py").write_text(
        "import os\n"
        "print('from Python')\n"
        "def model():\n"
        "    os.system('echo from a child')\n"
        f"    return {str(iris_onnx)!r}\n"
    )

    done = _run(tmp_path, "export", "model.py", "-o", "package")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == 1
    assert "from Python" in done.stderr
    assert "from a child" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("export", "nothing.onnx", "-o", "package"), 1, "'nothing.onnx' does not exist"),
        (("quantize", "package", "-o", "other", "--max-drop", "nan"), 2, "--max-drop"),
    ],
)
def test_a_command_that_fails_says_so_in_its_json_document(tmp_path, arguments, status, error):
    done = _run(tmp_path, *arguments)

    assert done.returncode == status
    assert error in json.loads(done.stdout)["error"]
    assert error in done.stderr


def test_memory_that_does_not_suffice_is_no_bug_of_ours(ended):
    def fails():
        raise MemoryError("Unable to allocate 4.0 TiB")

    status, text = ended(fails)

    assert status == 1
    assert "there is not enough memory: Unable to allocate 4.0 TiB." in text
    assert "bug" not in text
