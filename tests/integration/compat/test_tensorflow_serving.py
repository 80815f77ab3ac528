"""The vectors of TensorFlow Serving's own tests, sent as its clients send them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest


def ask(url: str, body: str | None = None) -> tuple[int, Any]:
    data = None if body is None else body.encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize("version", ["", "/versions/123"])
@pytest.mark.parametrize(
    ("action", "body", "answer"),
    [
        ("predict", '{"instances": [2.0, 3.0, 4.0]}', {"predictions": [3.0, 3.5, 4.0]}),
        ("predict", '{"inputs": [2.0, 3.0, 4.0]}', {"outputs": [3.0, 3.5, 4.0]}),
        (
            "classify",
            '{"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]}',
            {"results": [[["", 3.0]]]},
        ),
        (
            "regress",
            '{"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}',
            {"results": [3.0]},
        ),
    ],
)
def test_half_plus_two_answers_as_there(
    url: str, version: str, action: str, body: str, answer: Any
) -> None:
    assert ask(f"{url}/v1/models/half{version}:{action}", body) == (200, answer)


def test_every_action_gives_the_same_bits(url: str) -> None:
    """Each answer is the shortest text of the same float32."""
    values = [0.1, -3.3333333, 1e-30, 3e38, 16777217.0]
    columns = ask(f"{url}/v1/models/half:predict", json.dumps({"inputs": values}))[1]["outputs"]
    rows = ask(f"{url}/v1/models/half:predict", json.dumps({"instances": values}))[1]
    examples = json.dumps({"examples": [{"x": value} for value in values]})
    regressed = ask(f"{url}/v1/models/half:regress", examples)[1]["results"]
    classified = ask(f"{url}/v1/models/half:classify", examples)[1]["results"]
    wanted = (np.float32(0.5) * np.float32(values) + np.float32(2)).tobytes()
    for found in (columns, rows["predictions"], regressed, [one[0][1] for one in classified]):
        assert np.float32(found).tobytes() == wanted


@pytest.mark.parametrize("path", ["half", "half/versions/123"])
def test_the_model_is_available(url: str, path: str) -> None:
    status, document = ask(f"{url}/v1/models/{path}")
    assert (status, document["ready"]) == (200, True)
    assert document["model_version_status"][-1] == {
        "version": "123",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


def test_the_metadata_names_the_signature(url: str) -> None:
    _, document = ask(f"{url}/v1/models/half/metadata")
    assert document["model_spec"] == {"name": "half", "signature_name": "", "version": "123"}
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"


def test_a_classifier_answers_with_its_labels(url: str) -> None:
    document = {"instances": [{"image": [[[0.5] * 8] * 8]}]}
    status, answer = ask(f"{url}/v1/models/light:predict", json.dumps(document))
    assert (status, answer) == (200, {"predictions": [[-32.0, 32.0]]})


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("nope:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(nope)"),
        ("half:predict", "{", 400, "JSON Parse error: Input data was truncated at offset: 1"),
        ("half:predict", "{}", 400, "Missing 'inputs' or 'instances' key"),
        (
            "half:predict",
            '{"signature_name": "x", "instances": [1]}',
            400,
            'Serving signature name: "x" not found in signature def',
        ),
        ("half:nothing", "{}", 400, "Malformed request: POST /v1/models/half:nothing"),
    ],
)
def test_errors_have_their_texts(url: str, path: str, body: str, status: int, text: str) -> None:
    found, document = ask(f"{url}/v1/models/{path}", body)
    assert (found, document["error"]) == (status, text)


def test_metrics_are_where_they_are_there(url: str) -> None:
    with urllib.request.urlopen(f"{url}/monitoring/prometheus/metrics", timeout=30) as reply:
        assert b"# TYPE" in reply.read()


def test_kserves_first_version_finds_what_it_asks_for(url: str) -> None:
    assert ask(f"{url}/v1/models") == (200, {"models": ["half", "light"]})
    assert ask(f"{url}/") == (200, {"status": "alive"})
    assert ask(f"{url}/v1/models/half:explain", "{}")[0] == 501
