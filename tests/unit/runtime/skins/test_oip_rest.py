from __future__ import annotations

import gzip
import json
import struct
import threading
import time
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import DeadlineExceeded, Overloaded
from mlserve_cli.runtime.tensors import DATATYPES, TensorSpec

INFER = "/v2/models/dbl/infer"
X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}


def infer(client: Any, **changes: Any) -> Any:
    return client.post(INFER, json={"inputs": [X | changes]})


def binary(document: dict[str, Any], *parts: bytes, length: bytes | None = None) -> dict[str, Any]:
    text = json.dumps(document).encode()
    return {
        "content": text + b"".join(parts),
        "headers": {"Inference-Header-Content-Length": length or str(len(text)).encode()},
    }


def test_an_inference_answers_in_the_protocols_order_of_keys(client: Any, load: Any) -> None:
    load()
    reply = client.post(INFER, json={"id": "42", "inputs": [X], "unknown": 1})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["id", "model_name", "model_version", "outputs"]
    assert reply.json()["id"] == "42"
    assert reply.json()["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 4.0, 6.0]}
    ]


def test_an_id_is_only_echoed_when_it_was_sent(client: Any, load: Any) -> None:
    load()
    assert "id" not in infer(client).json()


def test_no_content_type_is_needed(client: Any, load: Any) -> None:
    load()
    assert client.post(INFER, content=json.dumps({"inputs": [X]})).status_code == 200


def test_a_version_in_the_path_chooses_it(client: Any, load: Any) -> None:
    load()
    load(version="2")
    reply = client.post("/v2/models/dbl/versions/1/infer", json={"inputs": [X]})
    assert reply.json()["model_version"] == "1"
    assert infer(client).json()["model_version"] == "2"


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_data_may_be_flat_or_nested(client: Any, load: Any, server: Any, data: Any) -> None:
    load()
    assert infer(client, shape=[2, 3], data=data).status_code == 200
    np.testing.assert_array_equal(server.dataplane.given[0]["x"], [[1, 2, 3], [4, 5, 6]])


REFUSED = {
    "too few": ({"data": [1, 2]}, "Unable to parse 'data': Shape does not match"),
    "too many": ({"data": [1, 2, 3, 4]}, "Unable to parse 'data': Shape does not match"),
    "nested otherwise": ({"data": [[1], [2], [3]]}, "Unable to parse 'data'"),
    "ragged": ({"data": [[1, 2], [3]]}, "ragged"),
    "mixed depth": ({"data": [[1, 2], 3]}, "ragged"),
    "text": ({"data": ["1", "2", "3"]}, "must be numbers (FP32)"),
    "null": ({"data": [None, 2, 3]}, "must be numbers (FP32)"),
    "bool": ({"data": [True, 2, 3]}, "must be numbers (FP32)"),
    "no list": ({"data": 5}, "must be a list"),
    "null data": ({"data": None}, "must be a list"),
    "overflow": ({"data": [1e39, 2, 3]}, "do not fit FP32"),
    "wide": ({"data": [10**400, 2, 3]}, "FP32"),
    "datatype": ({"datatype": "INT32"}, "data-type is 'INT32', but model 'dbl' expects 'FP32'"),
    "nonsense": ({"datatype": "FP128"}, "invalid datatype for input x"),
    "bf16": ({"datatype": "BF16"}, "invalid datatype for input x"),
    "negative": ({"shape": [-1, 3]}, "cannot be negative"),
    "2^64": ({"shape": [2**32, 2**32], "data": []}, "Unable to parse 'data'"),
    "2^64 elements in none": ({"shape": [0, 2**70], "data": []}, "invalid shape"),
    "many dimensions": ({"shape": [2**62] * 5000, "data": []}, "has 5000 dimensions"),
    "wide size": ({"shape": [2**64, 3], "data": []}, "or larger than 2^63 - 1"),
    "no rows": ({"shape": [0, 3], "data": []}, "has no rows"),
    "rank": ({"shape": [3]}, "Expected [-1,3], got [3]."),
    "size": ({"shape": [1, 2], "data": [1, 2]}, "Expected [-1,3], got [1,2]."),
    "name": ({"name": "zz"}, "unexpected inference input 'zz' for model 'dbl'"),
    "shape of text": ({"shape": "abc"}, "failed to parse the request JSON buffer"),
    "shape of fractions": ({"shape": [1.5, 3]}, "failed to parse the request JSON buffer"),
    "shared memory": ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_input_is_refused_with_a_sentence(client: Any, load: Any, case: str) -> None:
    load()
    changes, text = REFUSED[case]
    reply = infer(client, **changes)
    assert reply.status_code == (501 if case == "shared memory" else 400)
    assert text in reply.json()["error"]


def test_the_request_id_stands_before_the_error(client: Any, load: Any) -> None:
    load()
    reply = client.post(INFER, json={"id": "42", "inputs": [X | {"datatype": "INT32"}]})
    assert reply.json()["error"] == (
        "[request id: 42] inference input 'x' data-type is 'INT32', but model 'dbl' expects 'FP32'"
    )


BODIES = {
    "empty": b"",
    "no JSON": b"{",
    "no inputs": b"{}",
    "an id that is a number": b'{"id": 1, "inputs": []}',
    "latin-1": b'{"id": "\xe4", "inputs": []}',
    "a list": b"[]",
    "deep": b'{"inputs":' + b"[" * 250_000,
    "deep with NaN": b'{"a": NaN, "inputs":' + b"[" * 250_000 + b"]" * 250_000 + b"}",
    "deep data": b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":'
    + b"[" * 90
    + b"1"
    + b"]" * 90
    + b"}]}",
    "a number of 5000 digits": b'{"a": NaN, "inputs": [' + b"1" * 5000 + b"]}",
    "half a surrogate pair": b'{"id": "\\ud800", "inputs": []}',
    "half a surrogate pair beside NaN": b'{"id": "\\ud800", "a": NaN, "inputs": []}',
}


@pytest.mark.parametrize("case", BODIES)
def test_a_broken_body_is_a_400(client: Any, load: Any, case: str) -> None:
    load()
    reply = client.post(INFER, content=BODIES[case])
    assert reply.status_code == 400
    assert reply.json()["error"]


def test_doubled_and_unknown_names_are_refused(client: Any, load: Any) -> None:
    load()

    def error(**document: Any) -> str:
        reply = client.post(INFER, json={"inputs": [X]} | document)
        assert reply.status_code == 400
        return str(reply.json()["error"])

    twice = [{"name": "y"}, {"name": "y"}]
    assert error(inputs=[X, X]) == "input 'x' already exists in request"
    assert error(inputs=[X, X | {"name": "b"}]) == (
        "expected 1 inputs but got 2 inputs for model 'dbl'"
    )
    assert error(inputs=[]).startswith("expected 1 inputs but got 0 inputs")
    assert error(outputs=twice) == "output 'y' already exists in request"
    assert error(outputs=[{"name": "nah"}]) == ("unexpected inference output 'nah' for model 'dbl'")


def test_only_the_outputs_that_were_asked_for_are_sent_in_that_order(
    client: Any, load: Any, server: Any
) -> None:
    outputs = tuple(TensorSpec(name, "FP32", ("batch", 3)) for name in ("y", "z", "w"))
    load(outputs=outputs)
    server.dataplane.function = lambda given: dict.fromkeys("yzw", given["x"])
    reply = client.post(INFER, json={"inputs": [X], "outputs": [{"name": "w"}, {"name": "y"}]})
    assert [output["name"] for output in reply.json()["outputs"]] == ["w", "y"]


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.5, 2.25, float("nan")], b"NaN"), ([float("inf"), float("-inf"), 0], b"-Infinity")],
)
def test_numbers_that_are_not_finite_pass_as_bare_tokens(
    client: Any, load: Any, server: Any, values: list[float], text: bytes
) -> None:
    load()
    reply = client.post(INFER, content=json.dumps({"inputs": [X | {"data": values}]}))
    assert reply.status_code == 200
    assert text in reply.content
    found = np.array(json.loads(reply.content)["outputs"][0]["data"], dtype=np.float32)
    np.testing.assert_array_equal(found, np.array(values, dtype=np.float32) * 2)


VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "UINT8": [0, 255],
    "UINT16": [0, 65535],
    "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "INT8": [-128, 127],
    "INT16": [-(2**15), 2**15 - 1],
    "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "FP16": [0.5, -65504.0],
    "FP32": [0.1, 3.4e38],
    "FP64": [0.1, -1.7e308],
    "BYTES": ["", "häß\0"],
}


def of(datatype: str, values: list[Any]) -> np.ndarray[Any, Any]:
    if datatype == "BYTES":
        array = np.empty(len(values), dtype=np.object_)
        array[:] = [value.encode() for value in values]
        return array
    return np.array(values, dtype=DATATYPES[datatype])


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_passes_as_json_and_as_binary(
    client: Any, load: Any, server: Any, datatype: str
) -> None:
    expected = of(datatype, VALUES[datatype])
    signature = {name: (TensorSpec(name[0], datatype, ("batch",)),) for name in ("x", "y")}
    load({"x": expected}, inputs=signature["x"], outputs=signature["y"])
    server.dataplane.function = lambda given: {"y": given["x"]}

    header = {"name": "x", "shape": [2], "datatype": datatype}
    reply = client.post(INFER, json={"inputs": [header | {"data": VALUES[datatype]}]})
    assert reply.status_code == 200, reply.text
    assert server.dataplane.given[-1]["x"].dtype == DATATYPES[datatype]
    data = reply.json()["outputs"][0]["data"]
    np.testing.assert_array_equal(of(datatype, data), expected)

    raw = serialize(expected)
    document = {
        "inputs": [header | {"parameters": {"binary_data_size": len(raw)}}],
        "parameters": {"binary_data_output": True},
    }
    reply = client.post(INFER, **binary(document, raw))
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers["inference-header-content-length"])
    described = json.loads(reply.content[:length])["outputs"][0]
    assert described["parameters"] == {"binary_data_size": len(raw)}
    assert "data" not in described
    assert reply.content[length:] == raw


def serialize(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    return b"".join(struct.pack("<I", len(item)) + item for item in array.flat)


def part(size: int, **changes: Any) -> dict[str, Any]:
    header = {"name": "x", "shape": [1, 3], "datatype": "FP32"}
    return {"inputs": [header | {"parameters": {"binary_data_size": size}} | changes]}


def error_of(reply: Any, status: int = 400) -> str:
    assert reply.status_code == status, reply.text
    return str(reply.json()["error"])


FLOATS = np.array([1, 2, 3], dtype="<f4").tobytes()


def test_a_binary_tensor_is_a_view_of_the_body(client: Any, load: Any, server: Any) -> None:
    load()
    assert client.post(INFER, **binary(part(12), FLOATS)).status_code == 200
    array = server.dataplane.given[0]["x"]
    assert not array.flags.owndata
    assert not array.flags.writeable
    np.testing.assert_array_equal(array, [[1, 2, 3]])


def test_binary_sizes_are_checked(client: Any, load: Any) -> None:
    load()

    def error(document: Any, *parts: bytes, length: bytes | None = None) -> str:
        return error_of(client.post(INFER, **binary(document, *parts, length=length)))

    assert error(part(12), FLOATS[:8]) == (
        "unexpected size for input 'x', expecting 4 additional bytes"
    )
    assert error(part(8), FLOATS[:8]).startswith("unexpected size for input 'x', expecting 12")
    assert error(part(12), FLOATS + b"0000") == "unexpected additional input data"
    assert error({"inputs": [X]}, b"0000") == "unexpected additional input data"
    assert error(part(12, data=[1, 2, 3]), FLOATS).endswith("'data' and 'binary_data_size'")
    assert "'binary_data_size'" in error(part(-1), FLOATS)
    assert "expecting" in error(part(12, shape=[2**33, 2**33]), FLOATS)
    for length in (b"99999", b"99999999999", b"9" * 40, b"abc", b"-1"):
        assert error(part(12), FLOATS, length=length).startswith(
            "inference header size should be in range (0, "
        )


def test_text_in_binary_form_is_checked(client: Any, load: Any, server: Any) -> None:
    text = TensorSpec("x", "BYTES", ("batch",))
    load({"x": of("BYTES", ["a"])}, inputs=(text,))
    server.dataplane.function = lambda given: {"y": np.zeros((2, 3), np.float32)}

    def send(raw: bytes, shape: int = 2) -> Any:
        document = part(len(raw), shape=[shape], datatype="BYTES")
        return client.post(INFER, **binary(document, raw))

    good = serialize(of("BYTES", ["ab", ""]))
    assert send(good).status_code == 200
    assert [bytes(item) for item in server.dataplane.given[0]["x"]] == [b"ab", b""]
    assert "additional bytes" in error_of(send(good, shape=2**40))
    assert "string elements" in error_of(send(good, shape=1))
    assert "additional bytes" in error_of(send(good[:6] + b"\x09\0\0\0x"))
    assert error_of(send(good + b"\1"))


def test_a_raw_body_is_the_only_input(client: Any, load: Any, server: Any) -> None:
    load()
    headers = {"Inference-Header-Content-Length": "0"}
    reply = client.post(INFER, content=FLOATS, headers=headers)
    length = int(reply.headers["inference-header-content-length"])
    assert reply.content[length:] == np.array([2, 4, 6], dtype="<f4").tobytes()
    assert "a row" in error_of(client.post(INFER, content=FLOATS * 2, headers=headers))
    assert "a row" in error_of(client.post(INFER, content=b"abc", headers=headers))


def test_one_open_size_of_a_raw_body_is_worked_out(client: Any, load: Any, server: Any) -> None:
    load(inputs=(TensorSpec("x", "FP32", ("batch", "length")),))
    headers = {"Inference-Header-Content-Length": "0"}
    assert client.post(INFER, content=FLOATS * 2, headers=headers).status_code == 200
    assert server.dataplane.given[0]["x"].shape == (1, 6)


def test_outputs_may_be_mixed(client: Any, load: Any, server: Any) -> None:
    load(outputs=tuple(TensorSpec(name, "FP32", ("batch", 3)) for name in "yz"))
    server.dataplane.function = lambda given: {"y": given["x"], "z": given["x"] + 1}
    wanted = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}]
    reply = client.post(INFER, json={"inputs": [X], "outputs": wanted})
    length = int(reply.headers["inference-header-content-length"])
    first, second = json.loads(reply.content[:length])["outputs"]
    assert first["parameters"] == {"binary_data_size": 12}
    assert second["data"] == [2.0, 3.0, 4.0]
    assert reply.content[length:] == FLOATS


def test_an_output_may_refuse_what_the_request_asks_for_all(client: Any, load: Any) -> None:
    load()
    wanted = [{"name": "y", "parameters": {"binary_data": False}}]
    document = {"inputs": [X], "outputs": wanted, "parameters": {"binary_data_output": True}}
    assert client.post(INFER, json=document).json()["outputs"][0]["data"] == [2.0, 4.0, 6.0]


def test_bytes_that_are_no_text_are_only_sent_as_binary(
    client: Any, load: Any, server: Any
) -> None:
    load()
    array = np.empty(1, dtype=np.object_)
    array[0] = b"\xff"
    server.dataplane.function = lambda given: {"y": array}
    reply = client.post(INFER, json={"inputs": [X]})
    assert "no UTF-8" in error_of(reply)
    assert "binary_data" in reply.json()["hint"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate"])
def test_a_packed_body_is_unpacked_before_its_header_is_counted(
    client: Any, load: Any, encoding: str
) -> None:
    load()
    request = binary(part(12), FLOATS)
    pack = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(request["content"]),
        "deflate": zlib.compress(request["content"]),
        "raw deflate": pack.compress(request["content"]) + pack.flush(),
    }[encoding]
    headers = request["headers"] | {"Content-Encoding": encoding.split()[-1]}
    reply = client.post(INFER, content=packed, headers=headers)
    assert reply.json()["outputs"][0]["data"] == [2.0, 4.0, 6.0]


def test_packing_is_limited_to_what_is_known_and_fits(client: Any, load: Any) -> None:
    load()

    def send(content: bytes, encoding: str) -> Any:
        return client.post(INFER, content=content, headers={"Content-Encoding": encoding})

    assert error_of(send(b"x", "br"), 501) == "Unsupported compression type 'br'"
    assert "no valid gzip" in error_of(send(b"x", "gzip"))
    assert "ends too early" in error_of(send(gzip.compress(b"{}" * 99)[:-9], "gzip"))
    assert "larger than" in error_of(send(gzip.compress(b"0" * (3 << 20)), "gzip"), 413)
    assert "bytes follow" in error_of(send(gzip.compress(b"") * 100, "gzip"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_is_packed_for_a_client_that_asks_for_just_that(
    client: Any, load: Any, encoding: str
) -> None:
    load()
    reply = client.post(INFER, json={"inputs": [X]}, headers={"Accept-Encoding": encoding})
    assert reply.headers["content-encoding"] == encoding
    assert reply.json()["outputs"][0]["data"] == [2.0, 4.0, 6.0]


def test_what_every_http_library_accepts_by_itself_costs_nothing(client: Any, load: Any) -> None:
    load()
    reply = client.post(INFER, json={"inputs": [X]}, headers={"Accept-Encoding": "gzip, deflate"})
    assert "content-encoding" not in reply.headers


def test_unknown_parameters_are_ignored_and_reserved_ones_are_not(client: Any, load: Any) -> None:
    load()

    def send(**parameters: Any) -> Any:
        return client.post(INFER, json={"inputs": [X], "parameters": parameters})

    assert send(priority=3, mine="yes", sequence_id=0).status_code == 200
    assert "'triton_x' is reserved" in error_of(send(triton_x=1))
    assert "'binary_data_output'" in error_of(send(binary_data_output="yes"))
    for wrong in (-1, 1.5, "soon", True):
        assert "microseconds" in error_of(send(timeout=wrong))


def test_the_earlier_of_two_timeouts_becomes_the_deadline(
    client: Any, load: Any, server: Any
) -> None:
    load()
    document = {"inputs": [X], "parameters": {"timeout": 5_000_000}}
    now = time.monotonic()
    client.post(INFER, json={"inputs": [X]})
    client.post(INFER, json=document)
    client.post(INFER, json=document, headers={"X-Request-Timeout-Ms": "250"})
    none, parameter, header = server.dataplane.deadlines
    assert none is None
    assert 5.0 <= parameter - now < 6.0
    assert 0.25 <= header - now < 1.25


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan", "inf"])
def test_a_timeout_header_that_is_no_number_is_refused(client: Any, load: Any, value: str) -> None:
    load()
    reply = client.post(INFER, json={"inputs": [X]}, headers={"X-Request-Timeout-Ms": value})
    assert "X-Request-Timeout-Ms" in error_of(reply)


def test_an_output_may_be_given_as_its_best_classes(client: Any, load: Any, server: Any) -> None:
    load(labels=("cat", "dog", "owl"))
    server.dataplane.function = lambda given: {"y": np.array([[0.25, 2, -1], [7, 7, 8]], "f4")}
    wanted = [{"name": "y", "parameters": {"classification": 2}}]
    reply = client.post(INFER, json={"inputs": [X], "outputs": wanted})
    assert reply.json()["outputs"] == [
        {
            "name": "y",
            "datatype": "BYTES",
            "shape": [2, 2],
            "data": ["2.0:1:dog", "0.25:0:cat", "8.0:2:owl", "7.0:0:cat"],
        }
    ]
    wanted[0]["parameters"]["binary_data"] = True  # type: ignore[index]
    reply = client.post(INFER, json={"inputs": [X], "outputs": wanted})
    assert b"2.0:1:dog" in reply.content[int(reply.headers["inference-header-content-length"]) :]


def test_classes_are_refused_where_there_can_be_none(client: Any, load: Any, server: Any) -> None:
    load()
    load(name="words", outputs=(TensorSpec("y", "BYTES", ("batch",)),))

    def send(value: Any, model: str = "dbl") -> Any:
        wanted = [{"name": "y", "parameters": {"classification": value}}]
        url = f"/v2/models/{model}/infer"
        return client.post(url, json={"inputs": [X], "outputs": wanted})

    for wrong in (-1, 1.5, "two", True):
        assert "'classification' of output 'y'" in error_of(send(wrong))
    assert "'y' of model 'words' is text" in error_of(send(1, "words"))
    assert server.dataplane.given == []
    assert send(0).json()["outputs"][0]["datatype"] == "FP32"


def test_errors_of_the_data_plane_carry_the_protocols_status(
    client: Any, load: Any, server: Any
) -> None:
    load()
    server.dataplane.error = Overloaded("1024 rows wait", retry_after_s=2)
    reply = client.post(INFER, json={"inputs": [X]})
    assert error_of(reply, 503) == "Exceeds maximum queue size: 1024 rows wait"
    assert reply.headers["retry-after"] == "2"
    server.dataplane.error = DeadlineExceeded("Request timeout expired")
    reply = client.post(INFER, json={"inputs": [X]})
    assert error_of(reply, 503) == "Request timeout expired"
    assert reply.headers["retry-after"] == "1"


def test_a_priority_is_handed_on_and_a_wrong_one_is_refused(
    client: Any, load: Any, server: Any
) -> None:
    load()

    def send(value: Any) -> Any:
        return client.post(INFER, json={"inputs": [X], "parameters": {"priority": value}})

    assert send(3).status_code == 200
    assert infer(client).status_code == 200
    assert server.dataplane.priorities == [3, 0]
    for wrong in (-1, 1.5, "soon", True, 2**32):
        assert "parameter 'priority'" in error_of(send(wrong))


def test_a_sequence_is_not_silently_taken_apart(client: Any, load: Any) -> None:
    load()
    reply = client.post(INFER, json={"inputs": [X], "parameters": {"sequence_id": 7}})
    assert "sequences are not served" in error_of(reply, 501)


def test_a_parameter_is_no_list_and_no_object(client: Any, load: Any) -> None:
    load()
    for wrong in ([1], {"a": 1}):
        assert "$.parameters" in error_of(
            client.post(INFER, json={"inputs": [X], "parameters": {"p": wrong}})
        )


ROWS = np.random.default_rng(5).integers(-800, 800, (30_000, 3)).astype(np.float32) / 8


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("nested", [False, True])
def test_a_long_list_is_read_by_pieces_and_means_the_same(
    client: Any, load: Any, server: Any, nested: bool, separators: tuple[str, str]
) -> None:
    load()
    data = ROWS.tolist() if nested else ROWS.ravel().tolist()
    item = X | {"shape": [30_000, 3], "data": data}
    text = json.dumps({"inputs": [item]}, separators=separators)
    reply = client.post(INFER, content=text)
    assert reply.status_code == 200, reply.text
    assert server.dataplane.given[0]["x"].tobytes() == ROWS.tobytes()
    found = np.array(reply.json()["outputs"][0]["data"], np.float32)
    assert found.tobytes() == (ROWS * 2).tobytes()


def test_a_long_list_that_is_wrong_gets_the_same_sentence_as_a_short_one(
    client: Any, load: Any
) -> None:
    load()

    def error(data: Any, **changes: Any) -> str:
        item = X | {"shape": [30_000, 3], "data": data} | changes
        return error_of(client.post(INFER, content=json.dumps({"inputs": [item]})))

    good = ROWS.tolist()
    assert "ragged" in error([*good[:-1], [1.0, 2.0]])
    assert "ragged" in error([*good[:-1], 1.0])
    assert "ragged" in error([*good[:20_000], [[1.0], [2.0], [3.0]], *good[20_001:]])
    assert "must be numbers" in error([*good[:-1], [1.0, 2.0, "3"]])
    assert "Unable to parse 'data'" in error(good[:-1])
    assert "invalid datatype" in error(good, datatype="FP31")
    assert "must be a list" in error({"a": good})


def test_a_long_list_may_hold_what_is_no_number(client: Any, load: Any, server: Any) -> None:
    load()
    array = ROWS.copy()
    array[0, 0], array[-1, -1] = np.nan, -np.inf
    item = X | {"shape": [30_000, 3], "data": array.ravel().tolist()}
    reply = client.post(INFER, content=json.dumps({"inputs": [item]}))
    found = np.array(json.loads(reply.content)["outputs"][0]["data"], np.float32)
    np.testing.assert_array_equal(found.reshape(-1, 3), array * 2)


def test_traffic_may_stick_to_a_field_of_the_request(
    client: Any, load: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    keys: list[Any] = []
    asked = SimpleNamespace(sticky="field:user")
    route = server.traffic.route

    def remember(name: str, version: Any = None, *, label: Any = None, key: Any = None) -> Any:
        keys.append(key)
        return route(name, version, label=label)

    monkeypatch.setattr(server.traffic, "rule", lambda name: asked)
    monkeypatch.setattr(server.traffic, "route", remember)
    for parameters in ({"user": "ann"}, {"user": 7}, {}):
        body = {"inputs": [X], "parameters": parameters}
        assert client.post(INFER, json=body).status_code == 200
    asked.sticky = "field:x"
    assert infer(client, data=[[5, 2, 3]]).status_code == 200
    assert keys == ["ann", "7", None, "5"]


def test_a_bug_is_a_bare_500_whose_details_are_only_in_the_log(
    client: Any, load: Any, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    server.dataplane.error = RuntimeError("secret")
    text = error_of(client.post(INFER, json={"inputs": [X]}), 500)
    assert "secret" not in text
    assert "secret" in caplog.text
    assert text.rpartition(" ")[2] in caplog.text


def test_unknown_models_versions_paths_and_methods_answer_in_json(client: Any, load: Any) -> None:
    load()

    def post(path: str) -> str:
        return error_of(client.post(path, json={"inputs": [X]}), 404)

    assert post("/v2/models/nope/infer") == "Request for unknown model: 'nope' is not found"
    assert post("/v2/models/dbl/versions/9/infer") == (
        "Request for unknown model: 'dbl' version 9 is not found"
    )
    assert post("/v2/models/dbl/nothing") == "Not Found"
    reply = client.get(INFER)
    assert error_of(reply, 405) == "Method Not Allowed"
    assert reply.headers["allow"] == "POST"
    assert reply.headers["content-type"] == "application/json"


def test_a_size_that_no_number_can_write_is_refused(client: Any, load: Any) -> None:
    load()
    item = {"name": "x", "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    for shape in ([2**62] * 300, [10**300] * 20):
        text = json.dumps({"inputs": [item | {"shape": shape}]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        reply = client.post(INFER, content=text + bytes(4), headers=headers)
        assert reply.status_code == 400
        assert "shape" in reply.json()["error"] or "dimensions" in reply.json()["error"]


def test_a_limit_of_time_that_no_float_can_hold_is_no_limit(client: Any, load: Any) -> None:
    load()
    body = {"inputs": [X], "parameters": {"timeout": 10**400}}
    assert client.post(INFER, content=json.dumps(body)).status_code == 200


def test_an_unknown_input_is_refused_before_its_data_is_decoded(client: Any, load: Any) -> None:
    load()
    reply = infer(client, name="zz", data=["no number"])
    assert reply.json()["error"] == "unexpected inference input 'zz' for model 'dbl'"


def test_a_long_body_counts_as_bytes_in_flight_while_a_thread_decodes_it(
    client: Any, load: Any, server: Any
) -> None:
    load()
    plane = server.dataplane
    count = 50_000
    long = json.dumps({"inputs": [X | {"shape": [count, 3], "data": [1.25] * count * 3}]}).encode()
    assert client.post(INFER, content=long).status_code == 200
    assert plane.held == [len(long)] * 2  # parsed, and made tensors
    packed = gzip.compress(json.dumps({"inputs": [X]}).encode())
    headers = {"content-encoding": "gzip"}
    assert client.post(INFER, content=packed, headers=headers).status_code == 200
    assert plane.held[2:] == [len(packed)]
    assert plane.still_held == [0, 0]  # `infer` counts the tensors itself
    plane.max_bytes = len(packed) - 1
    for reply in (
        client.post(INFER, content=long),
        client.post(INFER, content=packed, headers=headers),
    ):
        assert reply.status_code == 503
        assert reply.headers["retry-after"] == "1"
        assert "max_inflight_mb allows no more" in reply.json()["error"]
    assert plane.bytes_in_flight == 0


@pytest.mark.parametrize(("datatype", "aside"), [("BYTES", True), ("UINT8", False)])
def test_long_texts_are_taken_apart_on_a_thread_and_numbers_need_no_taking_apart(
    client: Any, load: Any, monkeypatch: pytest.MonkeyPatch, datatype: str, aside: bool
) -> None:
    from mlserve_cli.runtime.protocols import oip_rest

    load(inputs=(TensorSpec("x", datatype, ("batch",)),))
    threads, read = [], oip_rest.read_tensors

    def reading(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return read(*given)

    monkeypatch.setattr(oip_rest, "read_tensors", reading)
    part = struct.pack("<I", 1) + b"a" if datatype == "BYTES" else b"a"
    count = (300 << 10) // len(part)
    item = {"name": "x", "shape": [count], "datatype": datatype}
    document = {"inputs": [item | {"parameters": {"binary_data_size": count * len(part)}}]}
    client.post(INFER, **binary(document, part * count))
    assert [name.startswith("asyncio_") for name in threads] == [aside]
