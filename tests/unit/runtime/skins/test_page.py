from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import numpy as np

from mlserve_cli.runtime.page import content_security_policy
from mlserve_cli.runtime.processing.declaration import Column, ImageInput, Processing, TableInput
from mlserve_cli.runtime.tensors import TensorSpec

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TABLE = TableInput(tensor="x", columns=(Column("a"), Column("b"), Column("c")))


def facts(reply: Any) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', reply.text)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_a_form_and_a_curl_line_a_model(client: Any, load: Any) -> None:
    load(processing=Processing(input=TABLE))
    reply = client.get("/", headers=BROWSER)
    assert reply.headers["content-type"].startswith("text/html")
    (model,) = facts(reply)["models"]
    assert (model["name"], model["version"], model["variant"]) == ("dbl", "1", "fp32")
    assert model["kind"] == "table"
    assert json.loads(model["example"]) == {"a": 1, "b": 2, "c": 3}
    assert model["curl"].startswith("curl -s http://localhost/predict/dbl ")
    assert model["inputs"][0]["shape"] == [-1, 3]
    assert client.post("/" + model["target"], content=model["example"]).status_code == 200


def test_who_wants_no_page_is_told_that_the_server_is_alive(client: Any) -> None:
    reply = client.get("/")
    assert (reply.status_code, reply.json()) == (200, {"status": "alive"})
    assert reply.headers["vary"] == "accept"


def test_an_older_version_is_tried_by_its_own_path(client: Any, load: Any) -> None:
    load()
    load(version="2")
    older, newer = facts(client.get("/", headers=BROWSER))["models"]
    assert older["target"] == "predict/dbl/1"
    assert newer["target"] == "predict/dbl"


def test_a_picture_is_fetched_and_never_stands_in_the_page(client: Any, load: Any) -> None:
    load(
        {"x": np.full((1, 1, 4, 4), 1.0, np.float32)},
        inputs=(TensorSpec("x", "FP32", ("batch", 1, 4, 4)),),
        processing=Processing(input=ImageInput(tensor="x", width=4, height=4, channels=1)),
    )
    (model,) = facts(client.get("/", headers=BROWSER))["models"]
    assert model["example"] is None
    assert client.get("/" + model["source"]).headers["content-type"] == "image/png"


def test_a_long_example_is_only_fetched(client: Any, load: Any) -> None:
    load(
        {"x": np.ones((1, 9999), np.float32)},
        inputs=(TensorSpec("x", "FP32", ("batch", 9999)),),
    )
    (model,) = facts(client.get("/", headers=BROWSER))["models"]
    assert model["example"] is None
    assert client.post("/" + model["target"], content=client.get("/" + model["source"]).content)


def test_a_package_cannot_write_into_the_page(client: Any, load: Any) -> None:
    load(description="</script><script>alert(1)</script>")
    reply = client.get("/", headers=BROWSER)
    assert "<script>alert" not in reply.text
    assert facts(reply)["models"][0]["description"] == "</script><script>alert(1)</script>"


def test_the_policy_allows_the_pages_own_script_and_style_alone(client: Any, load: Any) -> None:
    load()
    reply = client.get("/", headers=BROWSER)
    policy = reply.headers["content-security-policy"]
    assert policy == content_security_policy(reply.text)
    assert "'unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", reply.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_page_asks_nothing_of_any_other_host(client: Any) -> None:
    text = client.get("/", headers=BROWSER).text
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "@import" not in text


def test_a_server_without_models_has_a_page(client: Any) -> None:
    assert facts(client.get("/", headers=BROWSER))["models"] == []


def test_a_model_without_golden_rows_has_a_card_without_an_example(client: Any, load: Any) -> None:
    model = load()
    (model.path / "serve" / "golden.npz").unlink()
    (found,) = facts(client.get("/", headers=BROWSER))["models"]
    assert found["curl"] is None
    assert client.get("/examples/dbl").status_code == 404
