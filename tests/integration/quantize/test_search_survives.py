"""A search that is killed, runs out of disk, or gets rows that are no good."""

import errno
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from mlserve_cli.errors import DataError, MlserveError, PackageError, StepError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.optimize import Goal, optimize, work_folder
from mlserve_cli.pipeline.variant import Gate

SMALLEST = Goal(
    target="size", gate=Gate(max_drop=2.0, batch_sizes=(1,), allow_slower=True), seconds=0.05
)


def search(package, target, cases, goal=SMALLEST, **named):
    return optimize(
        package,
        target,
        source=str(package.path),
        cases=cases,
        goal=goal,
        progress=Silent(),
        **named,
    )


SCRIPT = """
    import sys
    from pathlib import Path
    from mlserve_cli.package.package import Package
    from mlserve_cli.package.progress import Silent
    from mlserve_cli.pipeline.cases import Cases
    from mlserve_cli.pipeline.optimize import Goal, optimize
    from mlserve_cli.pipeline.variant import Gate

    package, target, data, calibration = sys.argv[1:]
    gate = Gate(max_drop=2.0, batch_sizes=(1,), allow_slower=True)
    print("begun", flush=True)
    optimize(
        Package.open(Path(package)), Path(target), source=package,
        cases=Cases(data=data, calibration_data=calibration), resume=True,
        goal=Goal(target="size", gate=gate, seconds=0.05), progress=Silent(),
    )
    print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_again_and_again_at_any_point_it_ends_with_the_same_digest(
    residual_package, cases, tmp_path, number
):
    begun = time.monotonic()
    expected = search(residual_package, tmp_path / "whole", cases)
    most_s = 0.6 * (time.monotonic() - begun)
    target = tmp_path / "best"
    program = textwrap.dedent(SCRIPT)
    random_s = random.Random(number)
    kills = 0
    for _ in range(8):
        running = subprocess.Popen(
            [
                sys.executable, "-c", program, residual_package.path, target, cases.data,
                cases.calibration_data,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert running.stdout.readline() == "begun\n"
        time.sleep(random_s.uniform(0.02, most_s))  # the point is that it can be any
        running.send_signal(number)
        out, _ = running.communicate(timeout=60)
        if "done" in out:
            break
        kills += 1
        if target.exists():
            Package.open(target)  # whole, whenever it is there
    found = search(residual_package, target, cases, resume=True)
    assert kills >= 1
    assert found.best.digest == expected.best.digest
    assert Package.open(target).manifest.digest == expected.best.digest
    assert not list(tmp_path.glob(".*"))
    assert not list(work_folder(target).glob(".*.making"))


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_full_disk_ends_it_with_a_sentence_and_it_goes_on_when_there_is_room(
    residual_package, cases, tmp_path, monkeypatch, after
):
    from mlserve_cli.package import draft

    move, calls = draft.move, []

    def full(source, target):
        calls.append(target)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        move(source, target)

    monkeypatch.setattr(draft, "move", full)
    with pytest.raises(PackageError, match="No space left") as caught:
        search(residual_package, tmp_path / "best", cases)
    assert "free some space" in caught.value.hint
    monkeypatch.undo()
    found = search(residual_package, tmp_path / "best", cases, resume=True)
    assert Package.open(tmp_path / "best").manifest.digest == found.best.digest
    # That a candidate could not be written says nothing of the candidate.
    assert not [trial for trial in found.trials if "space" in trial.reason]


def test_a_calibration_file_without_rows_is_refused_before_anything_is_made(
    residual_package, cases, tmp_path
):
    empty = tmp_path / "empty.npz"
    np.savez(empty, x=np.zeros((0, 1, 8, 8), np.float32))
    given = Cases(data=cases.data, calibration_data=str(empty))
    with pytest.raises(DataError, match="holds no rows"):
        search(residual_package, tmp_path / "best", given)
    assert not list(tmp_path.glob("best*"))


def test_one_calibration_row_is_a_poor_one_and_no_error(residual_package, cases, digits, tmp_path):
    one = tmp_path / "one.npz"
    np.savez(one, x=digits.train[0][:1])
    given = Cases(data=cases.data, calibration_data=str(one))
    found = search(residual_package, tmp_path / "best", given)
    assert found.best.accuracy is None or found.best.accuracy.drop <= 2.0


def test_calibration_rows_with_nan_are_named(residual_package, cases, digits, tmp_path):
    rows = digits.train[0][:40].copy()
    rows[7, 0, 3, 3] = np.nan
    bad = tmp_path / "nan.npz"
    np.savez(bad, x=rows)
    given = Cases(data=cases.data, calibration_data=str(bad))
    found = search(residual_package, tmp_path / "best", given)
    refused = [trial for trial in found.trials if trial.state == "failed"]
    assert refused
    assert all("NaN" in trial.reason or "nan" in trial.reason for trial in refused)


def test_labels_of_another_length_end_it_before_anything_is_made(
    residual_package, cases, digits, tmp_path
):
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, x=digits.test[0], target=digits.test[1][:-3])
    given = Cases(data=str(wrong), calibration_data=cases.calibration_data)
    with pytest.raises(MlserveError, match=r"497|500"):
        search(residual_package, tmp_path / "best", given)
    assert not (tmp_path / "best").exists()
    assert not [path for path in work_folder(tmp_path / "best").iterdir() if path.is_dir()]


def test_a_model_too_large_for_the_memory_is_told_before_anything_starts(
    residual_package, cases, tmp_path, monkeypatch
):
    import msgspec

    from mlserve_cli.runtime import hardware

    small = msgspec.structs.replace(hardware.detect(), memory_bytes=200 << 20)
    monkeypatch.setattr(hardware, "detect", lambda: small)
    with pytest.raises(StepError, match=r"takes about .* GB of memory"):
        search(residual_package, tmp_path / "best", cases)
    assert not work_folder(tmp_path / "best").exists()


def test_an_operator_without_an_int8_form_stays_in_float_and_is_named(
    digits, cases, pack, tmp_path
):
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "up": rng.normal(size=(64, 64)) / 8,
        "stack": rng.normal(size=(2, 64, 64)) / 8,  # its int8 kernel takes one matrix
        "head": rng.normal(size=(64, 10)) / 8,
        "last": np.array([0]),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "up"], ["u"], "up"),
        helper.make_node("MatMul", ["u", "stack"], ["s"], "stacked"),
        helper.make_node("ReduceSum", ["s", "last"], ["r"], "sum", keepdims=0),
        helper.make_node("MatMul", ["r", "head"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "stacked",
        [helper.make_tensor_value_info("x", 1, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["batch", 10])],
        [
            numpy_helper.from_array(value.astype(np.int64 if name == "last" else np.float32), name)
            for name, value in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "stacked.onnx")
    package = pack(tmp_path / "stacked.onnx", {"x": digits.train[0][:16]}, tmp_path / "stacked")
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=digits.test[0])  # judged by its agreement with the float model
    given = Cases(data=str(rows), calibration_data=cases.calibration_data)
    found = search(package, tmp_path / "best", given, Goal(
        target="size", gate=Gate(max_drop=50.0, batch_sizes=(1,), allow_slower=True), seconds=0.05
    ))  # fmt: skip
    assert found.best.steps
    (left,) = Package.open(work_folder(tmp_path / "best") / "int8-minmax").evidence("left-in-float")
    assert [node["node"] for node in left["nodes"]] == ["stacked"]
