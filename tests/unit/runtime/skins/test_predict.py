from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    ImageInput,
    Processing,
    TableInput,
    TextInput,
)
from mlserve_cli.runtime.tensors import TensorSpec

TABLE = Processing(
    input=TableInput(tensor="x", columns=(Column("a"), Column("b"), Column("c", default=7.0)))
)


def png(levels: np.ndarray[Any, Any]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def test_rows_come_back_with_the_models_name_and_version(client: Any, load: Any) -> None:
    load(processing=TABLE)
    reply = client.post("/predict/dbl", json={"a": 1, "b": 2})
    assert reply.status_code == 200
    assert reply.json() == {
        "model": "dbl",
        "version": "1",
        "predictions": [{"y": [2.0, 4.0, 14.0]}],
    }


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"rows": rows}])
def test_rows_may_come_as_a_list_or_wrapped(client: Any, load: Any, wrap: Any) -> None:
    load(processing=TABLE)
    reply = client.post("/predict/dbl/1", json=wrap([{"a": 1, "b": 2}, {"a": 3, "b": 4, "c": 5}]))
    assert [row["y"] for row in reply.json()["predictions"]] == [[2, 4, 14], [6, 8, 10]]


def test_what_curl_sends_by_default_is_read_as_json(client: Any, load: Any) -> None:
    load(processing=TABLE)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = client.post("/predict/dbl", content='  {"a": 1, "b": 2}', headers=headers)
    assert reply.status_code == 200


def test_a_model_without_processing_takes_rows_by_input_name(client: Any, load: Any) -> None:
    load()
    reply = client.post("/predict/dbl", json={"x": [1, 2, 3]})
    assert reply.json()["predictions"] == [{"y": [2.0, 4.0, 6.0]}]
    reply = client.post("/predict/dbl", json=[[1, 2, 3], [4, 5, 6]])
    assert reply.json()["predictions"] == [{"y": [2.0, 4.0, 6.0]}, {"y": [8.0, 10.0, 12.0]}]


def test_numbers_that_are_not_finite_become_null(client: Any, load: Any, server: Any) -> None:
    load()
    reply = client.post("/predict/dbl", content=b'{"x": [NaN, 1, Infinity]}')
    assert reply.json()["predictions"] == [{"y": [None, 2.0, None]}]


def test_a_picture_is_taken_as_a_file_and_as_base64(client: Any, load: Any, server: Any) -> None:
    shape = ("batch", 1, 2, 2)
    load(
        {"x": np.zeros((1, 1, 2, 2), np.float32)},
        inputs=(TensorSpec("x", "FP32", shape),),
        outputs=(TensorSpec("y", "FP32", ("batch", 2)),),
        labels=("dark", "light"),
        processing=Processing(
            input=ImageInput(tensor="x", width=2, height=2, channels=1),
            output=ClassesOutput(tensor="y"),
        ),
    )
    server.dataplane.function = lambda given: {
        "y": np.stack([1 - given["x"].mean((1, 2, 3)), given["x"].mean((1, 2, 3))], axis=1)
    }
    white, black = (png(np.full((2, 2), level, np.uint8)) for level in (255, 0))
    for headers in ({"Content-Type": "image/png"}, {}):
        reply = client.post("/predict/dbl", content=white, headers=headers)
        assert reply.json()["predictions"][0]["label"] == "light", reply.text
    texts = [{"image": base64.b64encode(file).decode()} for file in (white, black)]
    reply = client.post("/predict/dbl", json={"instances": texts})
    assert [row["label"] for row in reply.json()["predictions"]] == ["light", "dark"]


def test_text_is_taken_plain_and_as_json(client: Any, load: Any, server: Any) -> None:
    words = np.empty(1, dtype=np.object_)
    words[0] = b"hello"
    load(
        {"x": words},
        inputs=(TensorSpec("x", "BYTES", ("batch",)),),
        outputs=(TensorSpec("y", "INT64", ("batch",)),),
        processing=Processing(input=TextInput(tensor="x")),
    )
    server.dataplane.function = lambda given: {"y": np.array([len(item) for item in given["x"]])}
    plain = {"Content-Type": "text/plain; charset=utf-8"}
    assert client.post("/predict/dbl", content="hä", headers=plain).json()["predictions"] == [
        {"y": 3}
    ]
    for rows in ("four", ["four"], {"text": "four"}, {"rows": [{"text": "four"}]}):
        assert client.post("/predict/dbl", json=rows).json()["predictions"] == [{"y": 4}]


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"rows": []}', "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"x", "application/pdf", 415),
        (b"x", "multipart/form-data; boundary=x", 400),
        (b"x", "image/png", 415),
    ],
)
def test_what_cannot_be_rows_is_refused(
    client: Any, load: Any, content: bytes, content_type: str, status: int
) -> None:
    load(processing=TABLE)
    reply = client.post("/predict/dbl", content=content, headers={"Content-Type": content_type})
    assert reply.status_code == status
    assert reply.json()["error"]


def test_an_unknown_model_is_a_404_and_a_get_a_405(client: Any, load: Any) -> None:
    load()
    assert client.post("/predict/nope", json={}).status_code == 404
    assert client.get("/predict/dbl").json() == {"error": "Method Not Allowed"}


def test_the_timeout_header_becomes_the_deadline(client: Any, load: Any, server: Any) -> None:
    load(processing=TABLE)
    headers = {"X-Request-Timeout-Ms": "1000"}
    client.post("/predict/dbl", json={"a": 1, "b": 2}, headers=headers)
    assert server.dataplane.deadlines[0] is not None


def test_the_fields_of_a_form_are_a_row_of_the_table(client: Any, load: Any) -> None:
    load(processing=TABLE)
    reply = client.post("/predict/dbl", files={"a": (None, "1.5"), "b": (None, "2")})
    assert reply.json()["predictions"] == [{"y": [3.0, 4.0, 14.0]}]
    reply = client.post("/predict/dbl", files={"a": (None, "x"), "b": (None, "2")})
    assert reply.status_code == 400
    assert "column 'a' is 'x'" in reply.json()["error"]


def test_a_table_may_come_as_a_file_in_a_form(client: Any, load: Any) -> None:
    load(processing=TABLE)
    reply = client.post("/predict/dbl", files={"table": ("t.csv", b"a,b\n1,2\n3,4\n")})
    assert [row["y"] for row in reply.json()["predictions"]] == [[2, 4, 14], [6, 8, 14]]


def test_a_form_fills_the_inputs_of_a_model_without_processing(client: Any, load: Any) -> None:
    load()
    reply = client.post("/predict/dbl", files={"x": (None, "[1, 2, 3]")})
    assert reply.json()["predictions"] == [{"y": [2.0, 4.0, 6.0]}]
    reply = client.post("/predict/dbl", files={"x": (None, "one"), "f": ("f", b"1")})
    assert (reply.status_code, "beside fields" in reply.json()["error"]) == (400, True)


def test_a_text_is_a_field_or_a_file_of_a_form(client: Any, load: Any, server: Any) -> None:
    load(
        {"x": np.array([b"a"], dtype=object)},
        inputs=(TensorSpec("x", "BYTES", ("batch",)),),
        processing=Processing(input=TextInput(tensor="x")),
    )
    server.dataplane.function = lambda given: {"y": given["x"]}
    for files in ({"text": (None, "12")}, {"f": ("f.txt", b"12")}, {"data": (None, "12")}):
        assert client.post("/predict/dbl", files=files).json()["predictions"] == [{"y": "12"}]


def test_pictures_come_in_a_form_a_file_each(client: Any, load: Any) -> None:
    load(
        {"x": np.zeros((1, 1, 2, 2), np.float32)},
        inputs=(TensorSpec("x", "FP32", ("batch", 1, 2, 2)),),
        processing=Processing(input=ImageInput(tensor="x", width=2, height=2, channels=1)),
    )
    file = png(np.full((2, 2), 255, np.uint8))
    white = {"y": [[[2.0, 2.0], [2.0, 2.0]]]}
    two = [("image", ("a.png", file, "image/png")), ("image", ("b.png", file))]
    assert client.post("/predict/dbl", files=two).json()["predictions"] == [white, white]
    field = {"image": (None, base64.b64encode(file))}
    assert client.post("/predict/dbl", files=field).json()["predictions"] == [white]
    reply = client.post("/predict/dbl", files={"image": (None, "x"), "other": (None, "y")})
    assert reply.status_code == 400
