from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InferenceFailed, InvalidRequest, PackageError
from mlserve_cli.runtime.processing.declaration import Column, PythonProcessing, TableInput
from mlserve_cli.runtime.processing.python import check_alone

BOTH = """
import numpy as np
EXAMPLE = {"n": 2}
def preprocess(rows):
    if rows[0] == {"bad": 1}:
        raise ValueError("bad is not good")
    return {"x": np.array([[row["n"]] * 3 for row in rows])}
def postprocess(outputs):
    return [float(row.sum()) for row in outputs["y"]]
"""


def build(make: Any, tmp_path: Path, text: str, **declared: Any) -> Any:
    (tmp_path / "processing.py").write_text(text)
    return make(python=PythonProcessing(), **declared)


def test_the_packages_own_functions_read_and_answer(make: Any, tmp_path: Path) -> None:
    found = build(make, tmp_path, BOTH)
    tensors = found.tensors(found.rows(b'[{"n": 1}, {"n": 2}]', "application/json"))
    assert tensors["x"].dtype == np.float32
    assert tensors["x"].tolist() == [[1.0] * 3, [2.0] * 3]
    assert found.answers({"y": tensors["x"]}) == [3.0, 6.0]
    assert found.example({}).body == b'{"n":2}'


def test_a_body_that_is_no_json_is_one_payload_of_bytes(make: Any, tmp_path: Path) -> None:
    found = build(make, tmp_path, BOTH)
    assert found.rows(b"\x00\x01", "application/octet-stream") == [b"\x00\x01"]
    assert found.rows(b"\x00\x01", "image/png") == [b"\x00\x01"]


def form(**fields: str) -> bytes:
    head = "Content-Disposition: form-data; name="
    parts = [
        f'--X\r\n{head}"{name.partition("_")[0]}"{"; filename=f" if "_" in name else ""}'
        f"\r\n\r\n{value}\r\n"
        for name, value in fields.items()
    ]
    return "".join([*parts, "--X--"]).encode()


FORM = "multipart/form-data; boundary=X"


def test_a_form_is_one_row_of_text_and_bytes(make: Any, tmp_path: Path) -> None:
    found = build(make, tmp_path, BOTH)
    assert found.rows(form(n="2", f_file="ab"), FORM) == [{"n": "2", "f": b"ab"}]


def test_a_form_is_read_as_declared_where_nothing_is_written(make: Any, tmp_path: Path) -> None:
    table = TableInput(tensor="x", columns=(Column("a"), Column("b"), Column("c")))
    found = build(make, tmp_path, "def postprocess(outputs):\n    return []\n", input=table)
    assert found.rows(form(a="1", b="2.5"), FORM) == [{"a": 1.0, "b": 2.5}]


def test_a_value_error_is_the_clients_and_others_are_ours(make: Any, tmp_path: Path) -> None:
    found = build(make, tmp_path, BOTH)
    with pytest.raises(InvalidRequest, match="bad is not good"):
        found.tensors([{"bad": 1}])
    with pytest.raises(KeyError):
        found.tensors([{"m": 1}])


def test_what_is_not_written_stays_declared(make: Any, tmp_path: Path) -> None:
    text = "def postprocess(outputs):\n    return ['x'] * len(outputs['y'])\n"
    table = TableInput(tensor="x", columns=(Column("a"), Column("b"), Column("c")))
    found = build(make, tmp_path, text, input=table)
    tensors = found.tensors(found.rows(b'{"a": 1, "b": 2, "c": 3}', ""))
    assert found.answers({"y": tensors["x"]}) == ["x"]
    assert found.example(tensors).body == b'{"a":1,"b":2,"c":3}'


@pytest.mark.parametrize(
    "text",
    [
        "def postprocess(outputs):\n    return [1, 2, 3]\n",
        "def preprocess(rows):\n    return [1]\n",
    ],
)
def test_a_result_of_the_wrong_form_is_the_packages_fault(
    make: Any, tmp_path: Path, text: str
) -> None:
    found = build(make, tmp_path, text)

    def predict() -> Any:
        return found.answers({"y": found.tensors([{"x": [1, 2, 3]}])["x"]})

    with pytest.raises(InferenceFailed, match="returned"):
        predict()


@pytest.mark.parametrize(
    "text", ["import nothing_like_this", "1 / 0", "def (", "raise SystemExit(3)"]
)
def test_a_file_that_cannot_be_imported_is_refused(make: Any, tmp_path: Path, text: str) -> None:
    with pytest.raises(PackageError, match=r"processing\.py' cannot be imported"):
        build(make, tmp_path, text)


def test_a_missing_file_is_refused(make: Any) -> None:
    with pytest.raises(PackageError, match="is missing"):
        make(python=PythonProcessing())


def test_a_file_that_stands_alone_passes(tmp_path: Path) -> None:
    path = tmp_path / "processing.py"
    path.write_text(BOTH)
    check_alone(path)
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("import torch", "imports 'torch'"),
        ("from sklearn.linear_model import Ridge", "imports 'sklearn'"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("x = 1", "neither preprocess"),
    ],
)
def test_a_file_that_does_not_stand_alone_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "processing.py"
    path.write_text(text)
    with pytest.raises(PackageError) as caught:
        check_alone(path)
    assert part in caught.value.message


def test_a_requirement_is_not_blocked(tmp_path: Path) -> None:
    path = tmp_path / "processing.py"
    path.write_text("import sklearn\ndef preprocess(rows): return {}")
    check_alone(path, ["scikit_learn>=1.7  # scaler"])
