from __future__ import annotations

from typing import Any

import pytest

from mlserve_cli.runtime.tensors import TensorSpec


def test_a_living_ready_server_says_so_in_every_dialect(client: Any, load: Any) -> None:
    load()
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert client.get("/v2/models/dbl/ready").json() == {"name": "dbl", "ready": True}
    assert client.get("/v2/models/dbl/versions/1/ready").json() == {"name": "dbl", "ready": True}
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").json() == {"ready": True}


def test_a_server_that_is_not_ready_is_alive_and_says_no(
    client: Any, load: Any, server: Any
) -> None:
    load()
    server.is_ready = False
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/v2/health/ready").status_code == 400
    assert client.get("/v2/health/ready").json()["ready"] is False


@pytest.mark.parametrize("path", ["nope", "dbl/versions/9"])
def test_a_model_that_is_not_there_is_not_ready(client: Any, load: Any, path: str) -> None:
    load()
    reply = client.get(f"/v2/models/{path}/ready")
    assert reply.status_code == 400
    assert reply.json()["error"] == "Model version not ready"


def test_no_model_is_ready_while_the_server_stops(client: Any, load: Any, server: Any) -> None:
    load()
    server.accepting = False
    assert client.get("/v2/models/dbl/ready").status_code == 400


def test_metadata_names_versions_platform_and_signature(client: Any, load: Any) -> None:
    shape = ("batch", "length", 3)
    load(inputs=(TensorSpec("x", "FP32", shape),), outputs=(TensorSpec("y", "INT64", shape),))
    load(version="2", outputs=(TensorSpec("y", "BYTES", ("batch",)),))
    assert client.get("/v2/models/dbl/versions/1").json() == {
        "name": "dbl",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 3]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1, -1, 3]}],
    }
    assert client.get("/v2/models/dbl").json()["outputs"][0]["datatype"] == "BYTES"


def test_unknown_metadata_is_a_404_with_the_protocols_text(client: Any, load: Any) -> None:
    load()
    reply = client.get("/v2/models/nope")
    assert reply.status_code == 404
    assert reply.json()["error"] == "Request for unknown model: 'nope' is not found"
    reply = client.get("/v2/models/dbl/versions/9")
    assert reply.json()["error"].startswith("Request for unknown model: 'dbl' version 9")


def test_the_server_names_only_extensions_that_it_has(client: Any) -> None:
    document = client.get("/v2").json()
    assert document["name"] == "mlserve"
    assert document["extensions"] == [
        "classification",
        "model_repository",
        "schedule_policy",
        "model_configuration",
        "binary_tensor_data",
        "parameters",
        "statistics",
    ]
    assert document["version"].count(".") == 2


@pytest.mark.parametrize("path", ["/v2/", "/v2/models", "/nothing", "/v2/health/other"])
def test_an_unknown_path_is_a_404_and_never_a_redirect(client: Any, path: str) -> None:
    reply = client.get(path, follow_redirects=False)
    assert reply.status_code == 404
    assert reply.json() == {"error": "Not Found"}


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/livez", "/readyz", "/metrics", "/"]
)
def test_a_wrong_method_is_a_405_in_json(client: Any, path: str) -> None:
    reply = client.post(path)
    assert reply.status_code == 405
    assert reply.json() == {"error": "Method Not Allowed"}
    assert client.head(path).status_code == 200


def test_metrics_are_prometheus_text(client: Any) -> None:
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE mlserve_requests" in reply.text


def test_metrics_can_be_asked_for_by_name(client: Any, load: Any) -> None:
    load()
    client.post("/predict/dbl", json=[1, 2, 3])
    query = "name[]=mlserve_ready&name[]=mlserve_requests_total&name[]=mlserve_nothing"
    text = client.get(f"/metrics?{query}").text
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert families == {"mlserve_ready", "mlserve_requests_total"}
    assert 'mlserve_requests_total{model="dbl"' in text
    assert client.get("/metrics?name[]=mlserve_nothing").text == ""


def test_every_answer_is_counted_by_model_protocol_and_status(
    client: Any, load: Any, server: Any
) -> None:
    load()
    good = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
    client.post("/v2/models/dbl/infer", json=good)
    client.post("/v2/models/dbl/infer", json={})
    client.post("/predict/dbl", json=[1, 2, 3])
    client.post("/predict/nope", json=[1, 2, 3])

    def count(name: str, **labels: str) -> Any:
        return server.metrics.registry.get_sample_value(name, labels)

    known = {"model": "dbl", "version": "1"}
    unknown = {"model": "", "version": ""}
    requests = "mlserve_requests_total"
    assert count(requests, **known, protocol="oip-rest", status="2xx") == 1
    assert count(requests, **known, protocol="oip-rest", status="4xx") == 1
    assert count(requests, **known, protocol="predict", status="4xx") == 1
    assert count(requests, **unknown, protocol="predict", status="4xx") == 1
    assert count("mlserve_rejections_total", **known, reason="invalid") == 2
    assert count("mlserve_rejections_total", **unknown, reason="not_found") == 1


def test_a_bug_in_an_ordinary_route_is_a_bare_500(
    client: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.metrics, "render", lambda: 1 / 0)
    reply = client.get("/metrics")
    assert reply.status_code == 500
    assert "division" not in reply.json()["error"]
