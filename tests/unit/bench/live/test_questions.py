"""Rows that are made up, and requests in each protocol that can be read again."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.bench.live import wire
from mlserve_cli.bench.live.place import is_url, parse
from mlserve_cli.bench.live.questions import made_up
from mlserve_cli.bench.live.served import Served, Signature, spec
from mlserve_cli.errors import MlserveError
from mlserve_cli.runtime.protocols import binary_tensors, tensorflow_json
from mlserve_cli.runtime.protocols.oip_messages import InferInput
from mlserve_cli.runtime.tensors import DATATYPES, TensorSpec, check, rows


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(DATATYPES)),
            st.lists(st.one_of(st.integers(1, 4), st.just("open")), max_size=3),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 5),
)
def test_made_up_rows_fit_the_signature_that_they_are_made_for(wanted, count):
    specs = tuple(
        TensorSpec(f"t{number}", datatype, ("batch", *sizes))
        for number, (datatype, sizes) in enumerate(wanted)
    )
    found = made_up(specs, count)
    check(specs, found, model="m")
    assert rows(found) == count


def test_made_up_rows_are_the_same_for_the_same_seed():
    specs = (TensorSpec("x", "FP32", ("batch", 3)),)
    one, same, other = (made_up(specs, 2, seed=seed)["x"] for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def served(protocol, *specs):
    return Served(protocol=protocol, model="a model", signature=Signature(inputs=specs))


X = TensorSpec("x", "FP32", ("batch", 2))
TEXT = TensorSpec("t", "BYTES", ("batch",))
TENSORS = {
    "x": np.array([[1.5, np.nan], [3.0, 4.0]], np.float32),
    "t": np.array([b"one", b"\xff"], dtype=np.object_),
}


def test_tensors_as_bytes_are_what_the_server_reads():
    request = wire.request(served("oip-binary", X, TEXT), TENSORS)
    length = int(request.headers["Inference-Header-Content-Length"])
    document, at = json.loads(request.body[:length]), length
    for entry in document["inputs"]:
        size = entry["parameters"]["binary_data_size"]
        item = InferInput(entry["name"], entry["shape"], entry["datatype"])
        array = binary_tensors.decode(item, request.body, at, size)
        np.testing.assert_array_equal(array, TENSORS[entry["name"]])
        at += size
    assert at == len(request.body)
    assert request.rows == 2


def test_rows_for_tensorflow_are_what_the_server_reads():
    request = wire.request(served("tensorflow", X, TEXT), TENSORS)
    manifest = served("tensorflow", X, TEXT).signature.manifest("m")
    decoded = tensorflow_json.decode(manifest, tensorflow_json.parse(request.body))
    assert decoded.form == "row"
    np.testing.assert_array_equal(decoded.tensors["x"], TENSORS["x"])
    assert decoded.tensors["t"].tolist() == [b"one", b"\xff"]


def test_a_request_over_http_has_its_key_and_its_length():
    place = parse("http://127.0.0.1:8000", key="secret")
    request = wire.request(served("oip-json", X), {"x": TENSORS["x"]})
    head, _, body = request.http(place, "/v2/models/m/infer").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/m/infer HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer secret" in head
    assert b"\r\nHost: 127.0.0.1:8000" in head
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    assert b"NaN" in body  # the token that Triton and TensorFlow Serving take


@pytest.mark.parametrize("protocol", ["oip-json", "oip-binary", "tensorflow", "predict"])
@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[1]", b'{"answer": 3}', b"\xff\xfe"])
def test_what_is_no_answer_is_a_sentence(protocol, body):
    with pytest.raises(MlserveError) as caught:
        wire.outputs(served(protocol, X), body)
    assert "an answer" in caught.value.message


def test_names_with_slashes_and_spaces_stay_one_part_of_the_path():
    name = Served(protocol="tensorflow", model="a/b c", version="2").path
    assert name == "/v1/models/a%2Fb%20c/versions/2:predict"


def test_a_datatype_that_cannot_be_sent_is_told():
    with pytest.raises(MlserveError, match="BF16"):
        spec("x", "BF16", [1])


def test_open_sizes_have_a_name_and_the_first_is_the_batch():
    assert spec("x", "FP32", [-1, 3, "-1"]).shape == ("batch", 3, "x.2")


@pytest.mark.parametrize("url", ["http://", "http://h:port", "ftp://h", "http://[::1"])
def test_what_is_no_url_is_told(url):
    with pytest.raises(MlserveError, match="no server's URL"):
        parse(url)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("http://x", True), ("GRPC://x:1", True), ("packages/a", False), ("s3://x", False)],
)
def test_a_url_is_told_from_a_package(text, expected):
    assert is_url(text) is expected
