"""MLPerf's real LoadGen before a real package and a real server."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve_cli.runtime import golden
from tests.integration.protocols.conftest import package

pytest.importorskip("mlperf_loadgen")


def bench(*arguments, status=0):
    from mlserve_cli.cli.main import app

    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def runs(*arguments, status=0):
    return json.loads(bench(*arguments, "--json", status=status).stdout)["runs"]


@pytest.mark.parametrize("name", ["single-stream", "multi-stream", "server", "offline"])
def test_a_package_in_process_is_valid_and_loadgens_logs_are_kept(served, name, tmp_path):
    more = ("--rate", "300", "--p99-ms", "2000") if name == "server" else ()
    logs = tmp_path / "logs"
    (found,) = runs(
        *(served.folder / "dbl" / "1", "--scenario", name, *more),
        *("--seconds", "0.3", "--threads", "1", "--logs", logs),
    )
    assert found["passed"], found["sentence"]
    assert found["loadgen"]["valid"] is True
    assert all(found["loadgen"]["constraints"].values())
    assert f"Scenario : {name.title().replace('-', '')}" in (
        logs / "mlperf_log_summary.txt"
    ).read_text().replace("  ", " ")
    assert (logs / "mlperf_log_detail.txt").stat().st_size


def test_the_answers_of_a_package_are_held_to_the_golden_ones(served, tmp_path):
    every = served.folder / "every" / "1"
    (found,) = runs(
        every, "--scenario", "offline", "--accuracy", "--threads", "1", "--logs", tmp_path
    )
    assert found["passed"]
    assert found["answers"]["count"] == len(
        next(iter(golden.read(every / "serve").inputs.values()))
    )
    assert found["answers"]["worst_relative_difference"] <= found["answers"]["tolerance"]


@pytest.mark.parametrize("protocol", ["oip-binary", "oip-json", "oip-grpc"])
def test_the_server_scenario_passes_against_a_server(served, protocol, tmp_path):
    url = served.grpc if protocol == "oip-grpc" else served.url
    (found,) = runs(
        *(url, "--model", "dbl", "--protocol", protocol, "--scenario", "server"),
        *("--rate", "200", "--p99-ms", "2000", "--seconds", "0.5", "--logs", tmp_path),
    )
    assert found["passed"], found["sentence"]
    assert found["loadgen"]["figures"]["target_qps"] == 200
    assert found["failures"] == {}


def test_a_server_that_answers_something_else_is_wrong(served, tmp_path):
    """The other package has the same signature, and doubles nothing."""
    rows = golden.read(served.folder / "dbl" / "2" / "serve").inputs
    package(
        tmp_path,
        "dbl",
        [("Identity", ["x"], ["y"], {})],
        rows,
        outputs_of={"y": (np.float32, [3])},
    )
    packages = ((served.folder / "dbl" / "2", 0, "right"), (tmp_path / "dbl" / "1", 1, "WRONG"))
    for held_to, status, word in packages:
        result = bench(
            *(served.url, "--model", "dbl", "--package", held_to, "--scenario", "single-stream"),
            *("--accuracy", "--logs", tmp_path / "logs"),
            status=status,
        )
        assert f"{word}: " in result.stdout


def test_requests_that_fail_make_a_run_invalid_whatever_loadgen_says(aimed):
    """LoadGen takes every completion for an answer."""
    from mlserve_cli.bench.mlperf.remote import HttpSystem
    from mlserve_cli.bench.mlperf.system import Sample
    from mlserve_cli.bench.mlperf.task import Remote

    system = HttpSystem(Remote(aim=aimed(status=503), connections=2), whole=False)
    try:
        system.issue([Sample(number, 0) for number in range(5)])
        for _ in range(5):
            system.answers.wait()
    finally:
        system.close()
    assert system.answers.failures == {"status 503": 5}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scenario", "server"), "--rate and --p99-ms"),
        (("--scenario", "clients"), "'clients' is none of single-stream"),
        (("--scenario", "offline", "--rate", "5"), "only the server scenario has one"),
        (("--scenario", "offline", "--batch", "1,8"), "a scenario takes one"),
        (("--scenario", "offline", "--csv", "x.csv"), "it is written of packages side by side"),
    ],
)
def test_what_means_nothing_is_a_usage_error(served, arguments, said):
    result = bench(served.folder / "dbl" / "1", *arguments, status=2)
    assert said in " ".join(result.output.replace("│", " ").split())


def test_ctrl_c_ends_loadgens_process_too(served, tmp_path):
    arguments = ["bench", str(served.folder / "dbl" / "1"), "--scenario", "single-stream"]
    arguments += ["--seconds", "300", "--logs", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from mlserve_cli.cli.main import run; run()", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        _wait_for(tmp_path / "mlperf_log_detail.txt")
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted" in rest
    # Where nobody collects the dead their numbers stay, with no command line.
    command = Path(f"/proc/{child}/cmdline")
    assert not command.exists() or not command.read_bytes()


def _wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} has not come"
        time.sleep(0.02)  # nothing tells another process when a file comes
