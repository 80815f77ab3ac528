"""One input, one answer: through every protocol, in every form, and the engine in this process."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from typing import Any

import httpx2
import numpy as np
import pytest

from mlserve_cli.package.package import Package


def rows() -> np.ndarray[Any, Any]:
    """Ordinary, tiny, huge, negative and repeating fractions, as float32."""
    generator = np.random.default_rng(17)
    bits = generator.integers(0, 2**32, (40, 3), dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(bits) & (np.abs(bits) < 1e38), bits, np.float32(1 / 3))


def infer(served: Any, document: dict[str, Any], raw: bytes = b"") -> Any:
    text = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))} if raw else {}
    url = f"{served.url}/v2/models/dbl/infer"
    return httpx2.post(url, content=text + raw, headers=headers, timeout=30).raise_for_status()


@pytest.fixture
def expected(served: Any) -> Any:
    engine = Package.open(served.folder / "dbl" / "2").engine()
    yield engine.run({"x": rows()})["y"]
    engine.close()


def header(array: Any) -> dict[str, Any]:
    return {"name": "x", "shape": list(array.shape), "datatype": "FP32"}


@pytest.mark.parametrize("nested", [True, False])
def test_json_gives_the_engines_bits(served: Any, expected: Any, nested: bool) -> None:
    array = rows()
    data = array.tolist() if nested else array.ravel().tolist()
    reply = infer(served, {"inputs": [header(array) | {"data": data}]})
    found = np.array(reply.json()["outputs"][0]["data"], dtype=np.float32)
    assert found.tobytes() == expected.tobytes()


def test_binary_gives_the_engines_bits(served: Any, expected: Any) -> None:
    array = rows()
    # A name of another length moves the tensor to an odd address in the body.
    for identity in ("", "a", "ab", "abc"):
        document = {
            "id": identity,
            "inputs": [header(array) | {"parameters": {"binary_data_size": array.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
        reply = infer(served, document, array.tobytes())
        start = int(reply.headers["inference-header-content-length"])
        assert reply.content[start:] == expected.tobytes()


def test_a_raw_body_gives_the_engines_bits(served: Any, expected: Any) -> None:
    for row, answer in zip(rows()[:5], expected[:5], strict=True):
        reply = httpx2.post(
            f"{served.url}/v2/models/dbl/infer",
            content=row.tobytes(),
            headers={"Inference-Header-Content-Length": "0"},
        )
        start = int(reply.headers["inference-header-content-length"])
        assert reply.content[start:] == answer.tobytes()


def test_predict_gives_the_engines_bits(served: Any, expected: Any) -> None:
    reply = httpx2.post(f"{served.url}/predict/dbl", json=rows().tolist(), timeout=30)
    found = np.array([row["y"] for row in reply.json()["predictions"]], dtype=np.float32)
    assert found.tobytes() == expected.tobytes()


def test_tensorflow_servings_rows_give_the_engines_bits(served: Any, expected: Any) -> None:
    url = f"{served.url}/v1/models/dbl:predict"
    for instances in (rows().tolist(), [{"x": row} for row in rows().tolist()]):
        reply = httpx2.post(url, json={"instances": instances}, timeout=30)
        found = np.array(reply.json()["predictions"], dtype=np.float32)
        assert found.tobytes() == expected.tobytes()


def test_tensorflow_servings_columns_give_the_engines_bits(served: Any, expected: Any) -> None:
    url = f"{served.url}/v1/models/dbl/versions/2:predict"
    for inputs in (rows().tolist(), {"x": rows().tolist()}):
        reply = httpx2.post(url, json={"inputs": inputs}, timeout=30)
        found = np.array(reply.json()["outputs"], dtype=np.float32)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_body_and_a_packed_answer_give_the_engines_bits(
    served: Any, expected: Any, packing: str
) -> None:
    array = rows()
    described = header(array) | {"parameters": {"binary_data_size": array.nbytes}}
    asked = {"inputs": [described], "parameters": {"binary_data_output": True}}
    text = json.dumps(asked).encode()
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[packing]
    reply = httpx2.post(
        f"{served.url}/v2/models/dbl/infer",
        content=pack(text + array.tobytes()),
        headers={
            "Inference-Header-Content-Length": str(len(text)),
            "Content-Encoding": packing,
            "Accept-Encoding": packing,
        },
    )
    assert reply.headers["content-encoding"] == packing
    start = int(reply.headers["inference-header-content-length"])
    assert reply.content[start:] == expected.tobytes()


def test_torchserve_gives_the_engines_bits(served: Any, expected: Any) -> None:
    url = f"{served.url}/predictions/dbl"
    text = json.dumps(rows().tolist())
    for body in ({"content": text}, {"files": {"data": ("rows.json", text)}}):
        reply = httpx2.post(url, timeout=30, **body)
        found = np.array([row["y"] for row in reply.json()], dtype=np.float32)
        assert found.tobytes() == expected.tobytes()


def test_a_form_gives_the_engines_bits(served: Any, expected: Any) -> None:
    file = ("rows.json", json.dumps(rows().tolist()))
    reply = httpx2.post(f"{served.url}/predict/dbl", files={"rows": file}, timeout=30)
    found = np.array([row["y"] for row in reply.json()["predictions"]], dtype=np.float32)
    assert found.tobytes() == expected.tobytes()


def test_numbers_that_are_not_finite_give_the_same_bits_too(served: Any) -> None:
    array = np.array([[np.nan, np.inf, -np.inf]], dtype=np.float32)
    document = {"inputs": [header(array) | {"data": array.tolist()}]}
    found = json.loads(infer(served, document).content)["outputs"][0]["data"]
    np.testing.assert_array_equal(found, array.ravel() * 2)


def test_every_datatype_is_the_same_as_json_and_as_binary(served: Any, every: Any) -> None:
    inputs, raw = [], b""
    for name, array in every.items():
        part = (
            array.tobytes()
            if name != "bytes"
            else b"".join(struct.pack("<I", len(item)) + item for item in array)
        )
        raw += part
        inputs.append(
            {
                "name": name,
                "shape": [2],
                "datatype": name.upper(),
                "parameters": {"binary_data_size": len(part)},
            }
        )
    text = json.dumps({"inputs": inputs}).encode()
    url = f"{served.url}/v2/models/every/infer"
    length = {"Inference-Header-Content-Length": str(len(text))}
    from_binary = httpx2.post(url, content=text + raw, headers=length).json()["outputs"]
    for item, output in zip(inputs, from_binary, strict=True):
        del item["parameters"]
        item["data"] = output["data"]
    random.Random(1).shuffle(inputs)
    assert httpx2.post(url, json={"inputs": inputs}).json()["outputs"] == from_binary
