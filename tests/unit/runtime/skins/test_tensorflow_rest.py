"""TensorFlow Serving's REST API: its own vectors, and what it refuses."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InferenceFailed, Overloaded
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Column,
    ImageInput,
    Processing,
    TableInput,
    TextInput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import TensorSpec
from mlserve_cli.runtime.traffic import TrafficRule


def tensor(name: str, datatype: str = "FP32", *shape: int | str) -> TensorSpec:
    return TensorSpec(name, datatype, ("batch", *shape))


@dataclass
class FakeLifecycle:
    """What the index says; the models that are loaded, and what a test adds."""

    registry: Any
    others: list[Any] = field(default_factory=list)

    def index(self) -> list[Any]:
        loaded = [
            SimpleNamespace(
                name=model.manifest.name, version=model.manifest.version, state="READY", reason=""
            )
            for model in self.registry.models()
        ]
        return loaded + self.others


@pytest.fixture(autouse=True)
def lifecycle(server: Any) -> FakeLifecycle:
    server.lifecycle = FakeLifecycle(server.registry)
    return server.lifecycle


@pytest.fixture
def half(load: Any, server: Any) -> Any:
    """The model of TensorFlow Serving's own tests: y = x / 2 + 2."""
    server.dataplane.function = lambda given: {"y": given["x"] / 2 + 2}
    rows = {"x": np.array([2], np.float32)}
    return load(rows, name="half", version="123", inputs=(tensor("x"),), outputs=(tensor("y"),))


@pytest.fixture
def pair(load: Any, server: Any) -> Any:
    """Two inputs and two outputs."""
    server.dataplane.function = lambda given: {
        "total": given["a"] + given["b"][:, 0],
        "each": np.stack([given["a"], given["b"][:, 0]], 1),
    }
    return load(
        name="pair",
        inputs=(tensor("a"), tensor("b", "FP32", 1)),
        outputs=(tensor("total"), tensor("each", "FP32", 2)),
    )


def post(client: Any, path: str, document: Any, **options: Any) -> tuple[int, Any]:
    reply = client.post(f"/v1/models/{path}", content=json.dumps(document), **options)
    return reply.status_code, json.loads(reply.content)


@pytest.mark.parametrize(
    ("document", "answer"),
    [
        ({"instances": [2, 3, 4]}, {"predictions": [3.0, 3.5, 4.0]}),
        ({"inputs": [2, 3, 4]}, {"outputs": [3.0, 3.5, 4.0]}),
        ({"instances": [{"x": 2.0}, {"x": 3}]}, {"predictions": [3.0, 3.5]}),
        ({"inputs": {"x": [2.0]}}, {"outputs": [3.0]}),
        ({"signature_name": "serving_default", "instances": [2]}, {"predictions": [3.0]}),
        ({"signature_name": "", "instances": [2], "unknown": 1}, {"predictions": [3.0]}),
    ],
)
def test_predict_answers_in_the_form_of_the_question(
    client: Any, half: Any, document: Any, answer: Any
) -> None:
    assert post(client, "half:predict", document) == (200, answer)


@pytest.mark.parametrize("signature", ["classify_x_to_y", "serving_default", None])
def test_classify_gives_a_label_and_a_score(client: Any, half: Any, signature: Any) -> None:
    document = {"signature_name": signature, "examples": [{"x": 2.0}]}
    assert post(client, "half:classify", document) == (200, {"results": [[["", 3.0]]]})


def test_regress_gives_a_value_each(client: Any, half: Any) -> None:
    document = {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}, {"x": [3.0]}]}
    assert post(client, "half:regress", document) == (200, {"results": [3.0, 3.5]})


def test_examples_share_their_context(client: Any, pair: Any) -> None:
    document = {"context": {"a": 1, "b": 5}, "examples": [{"b": 2}, {}]}
    assert post(client, "pair:regress", document) == (200, {"results": [3.0, 6.0]})
    document["signature_name"] = "classify_a_to_each"
    answer = {"results": [[["0", 1.0], ["1", 2.0]], [["0", 1.0], ["1", 5.0]]]}
    assert post(client, "pair:classify", document) == (200, answer)


@pytest.mark.parametrize(
    "path", ["half/versions/123:predict", "HALF:PREDICT", "half/labels/new:Predict"]
)
def test_paths_name_versions_and_labels_in_letters_of_any_case(
    client: Any, half: Any, server: Any, path: str
) -> None:
    server.traffic.set_rule("half", TrafficRule(labels={"new": "123"}))
    path = path.replace("HALF", "half")
    assert post(client, path, {"instances": [2]}) == (200, {"predictions": [3.0]})
    upper = client.post("/V1/models/half:predict", content='{"instances": [2]}')
    assert upper.status_code == 404  # only what is below /v1/ is ours to match


def test_several_inputs_and_outputs_are_objects(client: Any, pair: Any) -> None:
    rows = [{"a": 1, "b": 2}, {"a": 3, "b": [4]}]
    status, answer = post(client, "pair:predict", {"instances": rows[:1]})
    assert (status, answer) == (200, {"predictions": [{"total": 3.0, "each": [1.0, 2.0]}]})
    columns = {"a": [1, 3], "b": [[2], [4]]}
    status, answer = post(client, "pair:predict", {"inputs": columns})
    assert answer == {"outputs": {"total": [3.0, 7.0], "each": [[1.0, 2.0], [3.0, 4.0]]}}
    status, answer = post(client, "pair:predict", {"instances": rows})
    assert status == 400
    assert "ragged" in answer["error"]


def test_bytes_travel_as_base64(client: Any, load: Any, server: Any) -> None:
    raw = b"\xff\x00\xfe"
    packed = {"b64": base64.b64encode(raw).decode()}
    load(
        name="bin",
        inputs=(tensor("x", "BYTES"),),
        outputs=(tensor("y_bytes", "BYTES"), tensor("y", "BYTES")),
    )
    server.dataplane.function = lambda given: {"y_bytes": given["x"], "y": given["x"]}
    status, answer = post(client, "bin:predict", {"instances": ["häß", "a"]})
    text = {"b64": base64.b64encode("häß".encode()).decode()}
    assert answer["predictions"][0] == {"y_bytes": text, "y": "häß"}
    status, answer = post(client, "bin:predict", {"instances": [packed]})
    assert status == 400
    assert "no UTF-8" in answer["error"]
    server.dataplane.function = lambda given: {"y_bytes": given["x"]}
    assert post(client, "bin:predict", {"instances": [packed, "a"]}) == (
        200,
        {"predictions": [packed, {"b64": "YQ=="}]},
    )
    assert server.dataplane.given[-1]["x"].tolist() == [raw, b"a"]
    assert post(client, "bin:predict", {"instances": [{"x": packed}]})[1] == {
        "predictions": [packed]
    }
    assert post(client, "bin:predict", {"inputs": {"b64": "YQ"}})[0] == 400


def test_numbers_that_are_not_finite_pass_as_tokens(client: Any, half: Any) -> None:
    body = '{"instances": [NaN, Infinity, -Infinity]}'
    reply = client.post("/v1/models/half:predict", content=body)
    assert reply.content == b'{"predictions":[NaN,Infinity,-Infinity]}'
    assert client.post(
        "/v1/models/half:classify", content='{"examples": [{"x": NaN}]}'
    ).content == (b'{"results":[[["",NaN]]]}')


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "JSON Parse error: The document is empty"),
        ('{"instances": [1,, 2]}', "JSON Parse error: invalid character at offset: 17"),
        ('{"instances": [1', "JSON Parse error: Input data was truncated at offset: 16"),
        ('{"instances": [NaN, x]}', "JSON Parse error: Expecting value at offset: 20"),
        ("[" * 100_000, "JSON Parse error: it is nested too deeply"),
        ("[1]", "JSON Value: [1] Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"inputs": [1], "instances": [1]}', "both 'inputs' and 'instances'"),
        ('{"instances": 1}', "'instances' is 1, and it must be a list"),
        ('{"instances": []}', "No values in 'instances' array"),
        ('{"instances": [1, {"x": 1}]}', "Expecting value/list but got object at item 1"),
        ('{"instances": [{"x": 1}, 1]}', "Expecting object but got list at item 1"),
        ('{"instances": [{"z": 1}]}', "keys must be equal to: x"),
        ('{"inputs": {"z": 1}}', "Missing named input: x in 'inputs' object."),
        ('{"inputs": {"x": [1], "z": 1}}', "'inputs' has 'z', which is no input"),
        ('{"instances": ["1"]}', "must be numbers"),
        ('{"instances": [[1], [1, 2]]}', "ragged"),
        ('{"instances": {"b64": "YQ=="}}', "must be a list"),
        ('{"inputs": {"b64": "YQ=="}}', "only text can be sent as base64"),
        ('{"instances": [[1, 2]]}', "unexpected shape for input 'x'"),
        ('{"signature_name": "x", "instances": [1]}', 'Serving signature name: "x" not found'),
        ('{"signature_name": 1, "instances": [1]}', "'signature_name' key must be a string"),
    ],
)
def test_what_is_wrong_is_a_400_that_says_why(client: Any, half: Any, body: str, text: str) -> None:
    reply = client.post("/v1/models/half:predict", content=body)
    assert reply.status_code == 400
    assert text in reply.json()["error"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "key 'examples' is expected"),
        ({"examples": 1}, "must be a list"),
        ({"examples": []}, "empty array"),
        ({"examples": [1]}, "must be JSON object"),
        ({"examples": [{"x": 1}], "context": 1}, "must be JSON object"),
        ({"examples": [{"z": 1}]}, "example 0 has the features z, and the model takes x"),
        ({"examples": [{"x": 1}], "signature_name": "nah"}, "not found in signature def"),
    ],
)
@pytest.mark.parametrize("method", ["classify", "regress"])
def test_examples_that_are_wrong_are_a_400_that_says_why(
    client: Any, half: Any, method: str, document: Any, text: str
) -> None:
    status, answer = post(client, f"half:{method}", document)
    assert status == 400
    assert text in answer["error"]


def test_an_output_without_a_row_each_asks_for_columns(client: Any, load: Any, server: Any) -> None:
    load(name="sum", inputs=(tensor("x"),), outputs=(TensorSpec("y", "FP32", ()),))
    server.dataplane.function = lambda given: {"y": given["x"].sum()}
    status, answer = post(client, "sum:predict", {"instances": [1, 2]})
    assert status == 400
    assert "'inputs' in place of 'instances'" in answer["hint"]
    assert post(client, "sum:predict", {"inputs": [1, 2]}) == (200, {"outputs": 3.0})
    assert post(client, "sum:regress", {"examples": [{"x": 1}]})[0] == 400


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("nope:predict", 404, "Servable not found for request: Latest(nope)"),
        ("half/versions/9:predict", 404, "Servable not found for request: Specific(half, 9)"),
        ("half/labels/new:predict", 400, "Unrecognized servable version label: new"),
        ("half:explain", 501, "model 'half' has no explainer"),
        ("half:predicted", 400, "Malformed request: POST /v1/models/half:predicted"),
        ("half", 400, "Malformed request: POST /v1/models/half"),
    ],
)
def test_what_is_not_there_is_told_as_there(
    client: Any, half: Any, path: str, status: int, text: str
) -> None:
    found, answer = post(client, path, {"instances": [1]})
    assert (found, answer["error"]) == (status, text)


def test_overload_is_a_503_with_retry_after(client: Any, half: Any, server: Any) -> None:
    server.dataplane.error = Overloaded("Exceeds maximum queue size", retry_after_s=2)
    reply = client.post("/v1/models/half:predict", content='{"instances": [1]}')
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert reply.json()["error"] == "Exceeds maximum queue size"


def test_a_long_request_and_a_long_answer_pass(client: Any, half: Any) -> None:
    rows = [0.5] * 100_000
    status, answer = post(client, "half:predict", {"instances": rows})
    assert (status, answer) == (200, {"predictions": [2.25] * 100_000})


def test_traffic_may_stick_to_a_value_of_the_request(client: Any, load: Any, server: Any) -> None:
    for version in ("1", "2"):
        load(name="half", version=version, inputs=(tensor("x"),), outputs=(tensor("y"),))
    rule = TrafficRule(default="1", weights={"2": 50}, sticky="field:user")
    server.traffic.set_rule("half", rule)
    picked: dict[str, set[str]] = {}

    async def infer(model: Any, given: Any, **options: Any) -> Any:
        picked.setdefault(user, set()).add(model.manifest.version)
        return {"y": given["x"]}

    server.dataplane.infer = infer
    for user in map(str, range(20)):
        for _ in range(3):
            document = {"user": user, "instances": [1]}
            assert post(client, "half:predict", document)[0] == 200
    assert all(len(versions) == 1 for versions in picked.values())
    assert {"1", "2"} == set.union(*picked.values())
    assert post(client, "nope:predict", {"user": "1", "instances": [1]})[0] == 404


def test_classes_come_with_the_labels_and_as_probabilities(
    client: Any, load: Any, server: Any
) -> None:
    load(
        name="kind",
        inputs=(tensor("x", "FP32", 2),),
        outputs=(tensor("scores", "FP32", 2),),
        labels=("cat", "dog"),
        processing=Processing(
            input=TableInput(tensor="x", columns=(Column("a"), Column("b", default=1.0))),
            output=ClassesOutput(tensor="scores", softmax=True),
        ),
        rows={"x": np.zeros((1, 2), np.float32)},
    )
    server.dataplane.function = lambda given: {"scores": given["x"]}
    status, answer = post(client, "kind:classify", {"examples": [{"a": [1.0]}, {"a": 1, "b": 1}]})
    assert answer == {"results": [[["cat", 0.5], ["dog", 0.5]]] * 2}
    status, answer = post(client, "kind:classify", {"examples": [{"c": 1}]})
    assert status == 400
    assert post(client, "kind:regress", {"examples": [{"a": 1}]})[0] == 400


def test_examples_go_through_text_and_picture_processing(
    client: Any, load: Any, server: Any
) -> None:
    import io

    from PIL import Image

    load(
        name="words",
        inputs=(tensor("x", "BYTES"),),
        outputs=(tensor("y"),),
        processing=Processing(input=TextInput(tensor="x"), output=ValuesOutput(tensor="y")),
        rows={"x": np.array([b"a"], dtype=object)},
    )
    server.dataplane.function = lambda given: {"y": np.zeros(len(next(iter(given.values()))))}
    packed = {"b64": base64.b64encode("häß".encode()).decode()}
    assert post(client, "words:regress", {"examples": [{"text": packed}]})[0] == 200
    assert server.dataplane.given[-1]["x"].tolist() == ["häß".encode()]
    assert post(client, "words:regress", {"examples": [{"text": {"b64": "/w=="}}]})[0] == 400
    load(
        name="light",
        inputs=(tensor("x", "FP32", 1, 2, 2),),
        outputs=(tensor("y"),),
        processing=Processing(input=ImageInput(tensor="x", width=2, height=2, channels=1)),
        rows={"x": np.zeros((1, 1, 2, 2), np.float32)},
    )
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2), 255, np.uint8)).save(file, "PNG")
    picture = {"b64": base64.b64encode(file.getvalue()).decode()}
    assert post(client, "light:regress", {"examples": [{"image": picture}]})[0] == 200
    assert server.dataplane.given[-1]["x"].tolist() == [[[[1.0, 1.0], [1.0, 1.0]]]]


def test_the_status_serves_tensorflow_and_kserve_clients(
    client: Any, half: Any, server: Any, lifecycle: Any
) -> None:
    version = {
        "version": "123",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    document = {"name": "half", "ready": True, "model_version_status": [version]}
    for path in ("half", "half/versions/123"):
        reply = client.get(f"/v1/models/{path}")
        assert (reply.status_code, reply.json()) == (200, document)
    lifecycle.others = [
        SimpleNamespace(name="half", version="9", state="UNAVAILABLE", reason="damaged"),
        SimpleNamespace(name="late", version="1", state="LOADING", reason=""),
    ]
    reply = client.get("/v1/models/half/versions/9")
    assert reply.status_code == 503
    (told,) = reply.json()["model_version_status"]
    assert told["state"] == "END"
    assert told["status"] == {"error_code": "UNKNOWN", "error_message": "damaged"}
    assert client.get("/v1/models/late").json()["ready"] is False
    assert client.get("/v1/models").json() == {"models": ["half", "late"]}
    server.accepting = False
    assert client.get("/v1/models/half").status_code == 503


def test_a_model_whose_engine_broke_is_available_and_not_ready(
    client: Any, half: Any, server: Any
) -> None:
    server.dataplane.error = InferenceFailed("the device is lost")
    assert post(client, "half:predict", {"instances": [1]})[0] == 500
    reply = client.get("/v1/models/half")
    assert (reply.status_code, reply.json()["ready"]) == (503, False)
    assert reply.json()["model_version_status"][0]["state"] == "AVAILABLE"
    server.dataplane.error = None
    assert client.get("/v1/models/half").status_code == 200


def test_a_label_stands_for_its_version(client: Any, half: Any, server: Any) -> None:
    server.traffic.set_rule("half", TrafficRule(labels={"new": "123"}))
    reply = client.get("/v1/models/half/labels/new")
    assert [each["version"] for each in reply.json()["model_version_status"]] == ["123"]
    assert client.get("/v1/models/half/labels/old").status_code == 400


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("/v1/models/half/versions/9", 404, "Could not find version 9 of model half"),
        ("/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/half:predict", 400, "Malformed request: GET /v1/models/half:predict"),
        ("/v1/nothing", 400, "Malformed request: GET /v1/nothing"),
    ],
)
def test_a_question_about_nothing_is_refused(
    client: Any, half: Any, path: str, status: int, text: str
) -> None:
    reply = client.get(path)
    assert (reply.status_code, reply.json()["error"]) == (status, text)


@pytest.mark.parametrize("path", ["half/metadata", "half/versions/123/metadata", "half/METADATA"])
def test_the_metadata_is_a_signature(client: Any, half: Any, path: str) -> None:
    def info(name: str) -> Any:
        sizes = [{"size": "-1", "name": "batch"}]
        shape = {"dim": sizes, "unknown_rank": False}
        return {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": name}

    assert client.get(f"/v1/models/{path}").json() == {
        "model_spec": {"name": "half", "signature_name": "", "version": "123"},
        "metadata": {
            "signature_def": {
                "signature_def": {
                    "serving_default": {
                        "inputs": {"x": info("x")},
                        "outputs": {"y": info("y")},
                        "method_name": "tensorflow/serving/predict",
                    }
                }
            }
        },
    }


def test_metrics_stand_at_tensorflow_servings_path_too(client: Any) -> None:
    assert "# TYPE" in client.get("/monitoring/prometheus/metrics").text


def test_requests_are_counted_by_model_and_protocol(client: Any, half: Any) -> None:
    post(client, "half:predict", {"instances": [1]})
    post(client, "half:predict", {})
    text = client.get("/metrics").text
    name = 'mlserve_requests_total{model="half",protocol="tensorflow-rest",status='
    assert name + '"2xx",version="123"} 1.0' in text
    assert name + '"4xx",version="123"} 1.0' in text


def test_a_long_body_counts_as_bytes_in_flight_while_a_thread_decodes_it(
    client: Any, half: Any, server: Any
) -> None:
    document = {"instances": [1.25] * 60_000}
    size = len(json.dumps(document))
    plane = server.dataplane
    assert post(client, "half:predict", document)[0] == 200
    assert plane.held == [size] * 2  # parsed, and made tensors
    assert plane.still_held == [0]  # `infer` counts the tensors itself
    plane.max_bytes = size - 1
    status, told = post(client, "half:predict", document)
    assert status == 503
    assert "max_inflight_mb allows no more" in told["error"]
    assert plane.bytes_in_flight == 0
