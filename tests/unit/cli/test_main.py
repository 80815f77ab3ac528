"""Errors and signals become a sentence and an exit status, in one place."""

import errno
import os
import signal

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
