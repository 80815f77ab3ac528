"""`mlserve predict` is killed with SIGKILL, again and again, and goes on to the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

COMMAND = [sys.executable, "-c", "from mlserve_cli.cli.main import run; run()", "predict"]
ROWS = 200_000


@pytest.fixture(scope="module")
def rows(iris, tmp_path_factory):
    """Noisy flowers in three Parquet files of several row groups, a few of them without a width."""
    made = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    for number in range(3):
        chosen = iris[0][made.integers(0, 150, ROWS // 3)]
        chosen = chosen + made.normal(0, 0.1, chosen.shape).astype(np.float32)
        columns = dict(zip(("sl", "sw", "pl", "pw"), chosen.T, strict=True))
        columns["pw"] = np.where(np.arange(len(chosen)) % 9999 == 77, np.nan, columns["pw"])
        table = pa.table({"id": np.arange(len(chosen)) + number * 1_000_000} | columns)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=20_000)
    return folder


def arguments(package, rows, out):
    return [
        *COMMAND, str(package.path), "-i", str(rows), "-o", out, "--keep", "id", "--batch", "64",
        "--part-rows", "3000", "--json",
    ]  # fmt: skip


def written(folder):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files.pop("_manifest.json", None)
    return files


@pytest.mark.parametrize("target", ["answers.csv", "answers/"])
def test_killed_at_random_moments_the_result_is_the_same_and_every_row_is_there_once(
    iris_package, rows, tmp_path, target
):
    package = iris_package(finite_inputs=True)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = subprocess.run(
        arguments(package, rows, f"{tmp_path}/whole/{target}"),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert whole.returncode == 1  # some rows were rejected
    assert b"Traceback" not in whole.stderr
    report = json.loads(whole.stdout)
    assert report["rows"] + report["rejected"] == ROWS // 3 * 3
    assert report["rejected"] == 21

    command = [*arguments(package, rows, f"{tmp_path}/killed/{target}"), "--resume"]
    state = tmp_path / "killed" / ("answers" if target.endswith("/") else f".{target}.parts")
    moment = random.Random(target)
    kills, parts = 0, 0
    while kills < 5:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wanted = parts + moment.randint(1, 8)
            while process.poll() is None and len(list(state.glob("part-*"))) < wanted:
                time.sleep(0.002)
            time.sleep(moment.random() * 0.03)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, said
        parts = len(list(state.glob("part-*")))
    last = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert last.returncode == 1, last.stderr
    end = json.loads(last.stdout)
    assert (end["rows"], end["rejected"]) == (report["rows"], report["rejected"])
    assert 0 < end["resumed_rows"] < end["rows"]

    assert written(tmp_path / "killed" if state.name[0] == "." else state) == written(
        tmp_path / "whole" if state.name[0] == "." else tmp_path / "whole" / "answers"
    )
    rejects = (tmp_path / "killed" / f"{target.rstrip('/')}.rejects.jsonl").read_text()
    assert [json.loads(line)["row"] for line in rejects.splitlines()][:2] == [78, 10077]
    if state.name == "answers":
        ids = pq.read_table(state).column("id").to_numpy()
    else:
        ids = np.loadtxt(tmp_path / "killed" / target, delimiter=",", skiprows=1, usecols=0)
    assert len(ids) == len(np.unique(ids)) == report["rows"]
    assert (np.diff(ids) > 0).all()


def test_ctrl_c_leaves_a_job_to_go_on_with(iris_package, rows, tmp_path):
    package = iris_package()
    command = arguments(package, rows, f"{tmp_path}/answers.jsonl")
    state = tmp_path / ".answers.jsonl.parts"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.poll() is None and len(list(state.glob("part-*"))) < 2:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130
    assert "the same command with --resume goes on" in said
    assert "Traceback" not in said
    again = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert again.returncode == 1
    assert b"hint: add --resume to go on" in again.stderr
    last = subprocess.run([*command, "--resume"], capture_output=True, timeout=120, check=False)
    assert last.returncode == 0, last.stderr
    assert len((tmp_path / "answers.jsonl").read_bytes().splitlines()) == ROWS // 3 * 3
    assert not state.exists()
