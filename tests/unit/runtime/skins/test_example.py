from __future__ import annotations

import json
import shlex
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime import example
from mlserve_cli.runtime.processing.declaration import (
    Column,
    ImageInput,
    Processing,
    PythonProcessing,
    TableInput,
    TextInput,
)
from mlserve_cli.runtime.tensors import TensorSpec

BASE = "http://127.0.0.1:8000/"


def words(*texts: str) -> np.ndarray[Any, Any]:
    array = np.empty(len(texts), dtype=np.object_)
    array[:] = [text.encode() for text in texts]
    return array


def test_a_short_row_stands_in_the_line(load: Any) -> None:
    table = TableInput(tensor="x", columns=(Column("a"), Column("it's"), Column("c")))
    line = example.curl_line(load(processing=Processing(input=table)), BASE)
    assert line.startswith("curl -s http://127.0.0.1:8000/predict/dbl -H ")
    assert json.loads(shlex.split(line)[-1]) == {"a": 1, "it's": 2, "c": 3}


def test_a_server_that_asks_for_keys_is_sent_one_with_each_request(load: Any) -> None:
    columns = tuple(Column(f"column_{index}") for index in range(60))
    long = load(
        {"x": np.ones((1, 60), np.float32)},
        inputs=(TensorSpec("x", "FP32", ("batch", 60)),),
        processing=Processing(input=TableInput(tensor="x", columns=columns)),
    )
    line = example.curl_line(long, BASE, key=True)
    assert line.count('curl -s -H "Authorization: Bearer $KEY" http://127.0.0.1:8000/') == 2


def test_a_long_row_is_fetched_from_the_server(load: Any) -> None:
    columns = tuple(Column(f"column_{index}") for index in range(60))
    model = load(
        {"x": np.ones((1, 60), np.float32)},
        inputs=(TensorSpec("x", "FP32", ("batch", 60)),),
        processing=Processing(input=TableInput(tensor="x", columns=columns)),
    )
    assert example.curl_line(model, BASE) == (
        "curl -s http://127.0.0.1:8000/examples/dbl"
        " | curl -s http://127.0.0.1:8000/predict/dbl --data-binary @-"
        " -H 'Content-Type: application/json'"
    )


def test_a_picture_is_fetched_from_the_server(load: Any, client: Any) -> None:
    model = load(
        {"x": np.full((1, 1, 4, 4), 1.0, np.float32)},
        inputs=(TensorSpec("x", "FP32", ("batch", 1, 4, 4)),),
        processing=Processing(input=ImageInput(tensor="x", width=4, height=4, channels=1)),
    )
    line = example.curl_line(model, BASE, version="1")
    assert "/examples/dbl/1 | " in line
    assert line.endswith("/predict/dbl/1 --data-binary @- -H 'Content-Type: image/png'")
    reply = client.get("/examples/dbl/1")
    assert reply.headers["content-type"] == "image/png"
    assert reply.content.startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["it's fine", "@file", "a $HOME `id` \\ !"])
def test_text_survives_the_shell(load: Any, text: str) -> None:
    model = load(
        {"x": words(text)},
        inputs=(TensorSpec("x", "BYTES", ("batch",)),),
        processing=Processing(input=TextInput(tensor="x")),
    )
    arguments = shlex.split(example.curl_line(model, BASE))
    assert arguments[-1] == text
    assert arguments[-2] == ("--data-raw" if text.startswith("@") else "-d")


def test_without_processing_the_example_is_a_row_by_input_name(load: Any, client: Any) -> None:
    model = load({"x": np.array([[0.1, float("nan"), 3]], np.float32)})
    found = example.of(model)
    assert found.path == "/predict/dbl"
    assert found.body == b'{"x":[0.1,NaN,3.0]}'
    assert client.post(found.path, content=found.body).status_code == 200


def test_what_only_the_user_knows_is_shown_as_tensors(
    load: Any, client: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dbl-1" / "serve"
    real = folder.__class__.mkdir

    def mkdir(self: Any, *args: Any, **more: Any) -> None:
        real(self, *args, **more)
        if self == folder:
            (folder / "processing.py").write_text("def preprocess(rows): return {'x': rows}\n")

    monkeypatch.setattr(folder.__class__, "mkdir", mkdir)
    model = load(processing=Processing(python=PythonProcessing()))
    found = example.of(model, version="1")
    assert found.path == "/v2/models/dbl/versions/1/infer"
    assert client.post(found.path, content=found.body).status_code == 200
