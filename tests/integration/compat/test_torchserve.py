"""TorchServe's two APIs against a real server: what its documentation does with curl."""

from __future__ import annotations

import io
from typing import Any

import httpx2
import numpy as np
import pytest


def picture(level: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        {"content": picture(255)},
        {"content": picture(255), "headers": {"Content-Type": "image/png"}},
        {"files": {"data": picture(255)}},
        {"files": {"data": ("light.png", picture(255), "image/png")}},
    ],
)
@pytest.mark.parametrize("path", ["light", "light/1"])
def test_a_picture_is_answered_raw_or_in_a_form(url: str, path: str, body: Any) -> None:
    reply = httpx2.post(f"{url}/predictions/{path}", timeout=8, **body)
    assert reply.status_code == 200, reply.text
    assert reply.json()["label"] == "light"
    assert reply.headers["x-request-id"]


def test_json_is_answered_row_by_row(url: str) -> None:
    reply = httpx2.post(f"{url}/predictions/half", json=[{"x": 2}, {"x": 3}], timeout=30)
    assert reply.json() == [{"y": 3.0}, {"y": 3.5}]
    assert httpx2.put(f"{url}/predictions/half", json={"x": 2}).json() == {"y": 3.0}


def test_the_server_is_healthy(url: str) -> None:
    assert httpx2.get(f"{url}/ping").json() == {"status": "Healthy"}


def test_versions_come_and_go_by_the_management_api(url: str) -> None:
    def versions() -> list[str]:
        return [each["modelVersion"] for each in httpx2.get(f"{url}/models/half/all").json()]

    before = versions()
    assert before[-1] == "123"
    for version in before[:-1]:
        assert httpx2.delete(f"{url}/models/half/{version}", timeout=30).status_code == 200
    reply = httpx2.post(f"{url}/models?url=half/122&synchronous=true", timeout=60)
    assert (reply.status_code, reply.json()) == (
        200,
        {"status": 'Model "half" Version: 122 registered with 1 initial workers'},
    )
    assert versions() == ["122", "123"]
    assert httpx2.post(f"{url}/models?url=half/122", timeout=30).status_code == 409
    assert httpx2.put(f"{url}/models/half/122/set-default", timeout=30).status_code == 200
    (described,) = httpx2.get(f"{url}/models/half").json()
    assert described["modelVersion"] == "122"
    refused = httpx2.delete(f"{url}/models/half/122", timeout=30)
    assert (refused.status_code, refused.json()["type"]) == (403, "InvalidModelVersionException")
    scaled = httpx2.put(f"{url}/models/half/122?min_worker=2&synchronous=true", timeout=60)
    assert scaled.json() == {"status": "Workers scaled to 2 for model: half"}
    assert len(httpx2.get(f"{url}/models/half").json()[0]["workers"]) == 2
    assert httpx2.post(f"{url}/predictions/half", json={"x": 2}, timeout=30).json() == {"y": 3.0}
    assert httpx2.put(f"{url}/models/half/123/set-default", timeout=30).status_code == 200
    assert httpx2.delete(f"{url}/models/half/122", timeout=30).status_code == 200
    gone = httpx2.post(f"{url}/predictions/half/122", json={"x": 2})
    assert (gone.status_code, gone.json()["type"]) == (404, "ModelVersionNotFoundException")


def test_an_unknown_package_cannot_be_registered(url: str) -> None:
    reply = httpx2.post(f"{url}/models?url=nope", timeout=30)
    assert reply.status_code == 404
    assert reply.json()["message"].startswith("Model not found at: nope")
