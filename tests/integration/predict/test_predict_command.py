"""`mlserve predict` as a person runs it: a process, real data, files, pipes, exit codes."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    Processing,
    TableInput,
)


@pytest.fixture(scope="module")
def wine():
    """The real wines: rows, classes, names of the columns, names of the classes."""
    from sklearn.datasets import load_wine

    data = load_wine()
    return data.data.astype(np.float32), data.target, data.feature_names, data.target_names


@pytest.fixture(scope="module")
def package(wine, tmp_path_factory):
    """A scaler and a logistic regression, fitted on the even wines, as a package with a table."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, classes, columns, labels = wine
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    fitted.fit(rows[::2], classes[::2])
    folder = tmp_path_factory.mktemp("wine")
    model = to_onnx(fitted, rows[:1], options={"zipmap": False})
    (folder / "wine.onnx").write_bytes(model.SerializeToString())
    manifest = Manifest(
        name="wine",
        version="1",
        variant="fp32",
        inputs=(),
        outputs=(),
        labels=tuple(map(str, labels)),
        processing=Processing(
            input=TableInput(columns=tuple(Column(name) for name in columns), tensor="X"),
            output=ClassesOutput(tensor="probabilities"),
        ),
    )
    with create(folder / "package") as draft:
        shutil.copyfile(folder / "wine.onnx", draft.serve / "model.onnx")
        sealed = finish(draft, manifest, [{"X": rows[::2]}])
    return Package(folder / "package", sealed)


@pytest.fixture
def held_out(wine, tmp_path):
    """The odd wines as a CSV file with an id and their class beside the measurements."""
    rows, classes, columns, labels = wine
    path = tmp_path / "held_out.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns, "label"])
        for number, (row, kind) in enumerate(zip(rows[1::2], classes[1::2], strict=True)):
            writer.writerow([number, *row.tolist(), labels[kind]])
    return path


def mlserve(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", "from mlserve_cli.cli.main import run; run()", *arguments],
        capture_output=True,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
        **options,
    )


def test_real_wines_are_classified_from_csv_to_csv(package, held_out, wine, tmp_path):
    out = tmp_path / "answers.csv"
    done = mlserve(
        "predict", str(package.path), "--input", str(held_out), "--output", str(out), "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows"] == 89
    assert report["rows_per_s"] > 0
    answers = list(csv.DictReader(out.read_text().splitlines()))
    truth = [wine[3][kind] for kind in wine[1][1::2]]
    found = [answer["label"] for answer in answers]
    assert np.mean([a == b for a, b in zip(found, truth, strict=True)]) > 0.95
    assert b"mlserve up" in done.stderr


def test_a_pipe_in_and_a_pipe_out(package, held_out):
    done = mlserve(
        "predict", str(package.path), "-i", "-", "-o", "-", "--format", "csv",
        input=held_out.read_bytes(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "label,score"
    assert len(lines) == 90


def test_a_reader_that_leaves_and_a_full_disk_are_no_bugs(package, wine, tmp_path):
    rows = tmp_path / "many.npz"
    np.savez(rows, X=np.tile(wine[0], (100, 1)))  # more answers than a pipe holds
    command = "from mlserve_cli.cli.main import run; run()"
    arguments = ["predict", str(package.path), "-i", str(rows), "-o", "-"]
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline().startswith(b'{"label"')
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(60) == 0
    assert b"error" not in said
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", command, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1
    assert b"error: stdout cannot be written: No space left on device." in done.stderr
    assert b"Exception" not in done.stderr


def test_a_wrong_column_is_one_sentence_and_status_1(package, held_out, tmp_path):
    text = held_out.read_text().replace("alcohol", "alkohol", 1)
    held_out.write_text(text)
    out = tmp_path / "answers.csv"
    done = mlserve("predict", str(package.path), "-i", str(held_out), "-o", str(out))
    assert done.returncode == 1
    assert b"has no column 'alcohol'" in done.stderr
    assert b"did you mean 'alkohol'?" in done.stderr
    assert b"Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.csv"]


def test_the_answers_and_a_document_cannot_share_stdout(package, held_out):
    done = mlserve("predict", str(package.path), "-i", str(held_out), "-o", "-", "--json")
    assert done.returncode == 2
    assert b"--json" in done.stderr


def test_bad_rows_end_in_a_file_a_sentence_and_status_1(package, held_out, tmp_path):
    lines = held_out.read_text().splitlines()
    lines[7] = lines[7].replace(".", "x", 1)
    held_out.write_text("\n".join(lines))
    out = tmp_path / "answers.csv"
    arguments = ["predict", str(package.path), "-i", str(held_out), "--json", "--keep", "id,label"]
    done = mlserve(*arguments, "-o", str(out))
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["rows"], report["rejected"], report["parts"]) == (88, 1, 1)
    assert b"error: 1 of 89 rows were rejected; the others are answered." in done.stderr
    assert f"hint: '{report['rejects']}' has the reasons".encode() in done.stderr
    (reject,) = map(json.loads, (tmp_path / "answers.csv.rejects.jsonl").read_text().splitlines())
    assert (reject["file"], reject["row"]) == (str(held_out), 7)
    answers = list(csv.DictReader(out.read_text().splitlines()))
    assert [int(answer["id"]) for answer in answers] == [n for n in range(89) if n != 6]
    assert {"id", "input_label", "label", "score"} == set(answers[0])
    over = mlserve(*arguments, "-o", str(out), "--resume")
    assert over.returncode == 1
    assert b"88 rows were there already, 88 in all" in over.stderr
    assert b"error: 1 of 89 rows were rejected" in over.stderr
    assert b"rows/s" not in over.stderr
    strict = mlserve(*arguments, "-o", str(tmp_path / "strict.csv"), "--strict")
    assert strict.returncode == 1
    assert b"row 7 of" in strict.stderr
    assert not (tmp_path / "strict.csv").exists()


def test_bad_rows_of_a_pipe_are_told_on_stderr(package, held_out):
    lines = held_out.read_text().splitlines()
    lines[7] = lines[7].replace(".", "x", 1)
    done = mlserve(
        "predict", str(package.path), "-i", "-", "-o", "-", "--format", "csv",
        input="\n".join(lines).encode(),
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stdout.decode().splitlines()) == 89
    assert b"rejected: row 7 of 'stdin': column '" in done.stderr


def test_csv_that_was_piped_without_its_format_is_told_the_option(package, held_out):
    done = mlserve(
        "predict", str(package.path), "-i", "-", "-o", "-", input=held_out.read_bytes()
    )  # fmt: skip
    assert done.returncode == 1
    assert b"--format csv reads CSV" in done.stderr


def test_a_row_is_answered_before_the_next_one_comes(package, held_out):
    header, first, second, *_ = held_out.read_text().splitlines()
    with subprocess.Popen(
        [
            sys.executable, "-c", "from mlserve_cli.cli.main import run; run()",
            "predict", str(package.path), "-i", "-", "-o", "-", "--format", "csv", "--batch", "1",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        process.stdin.write(f"{header}\n{first}\n".encode())
        process.stdin.flush()
        assert process.stdout.readline() == b"label,score\n"
        assert process.stdout.readline().startswith(b"class_")
        process.stdin.write(f"{second}\n".encode())
        process.stdin.close()
        assert process.stdout.readline().startswith(b"class_")
        assert process.wait(60) == 0
