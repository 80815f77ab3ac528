import subprocess
import sys

import pytest

_PROGRAM = """
from mlserve_cli.runtime import reporting
from mlserve_cli.runtime.errors import StartupError
reporting.install()
raise {error}
"""


def _run(error):
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(error=error)],
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("StartupError('no port.', hint='take another')", "error: no port.\nhint: take another\n"),
        ("StartupError('no port.')", "error: no port.\n"),
    ],
)
def test_an_error_of_ours_is_a_sentence_and_status_3(error, said):
    done = _run(error)

    assert (done.returncode, done.stderr) == (3, said)


def test_any_other_error_keeps_its_traceback():
    done = _run("ZeroDivisionError('a bug')")

    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a bug" in done.stderr
