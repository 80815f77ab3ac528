"""What a real client of the Open Inference Protocol sees: tritonclient over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.tensors import DATATYPES

triton = pytest.importorskip("tritonclient.http")
pytestmark = pytest.mark.filterwarnings("ignore")  # of gevent, on import and when it closes


@pytest.fixture
def client(served: Any) -> Iterator[Any]:
    made = triton.InferenceServerClient(served.address, network_timeout=30)
    yield made
    made.close()


def given(name: str, array: Any, *, binary: bool, datatype: str | None = None) -> Any:
    from tritonclient.utils import np_to_triton_dtype

    made = triton.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def double(client: Any, array: Any, *, binary: bool = True, **more: Any) -> Any:
    return client.infer("dbl", [given("x", array, binary=binary)], **more).as_numpy("y")


ROWS = np.array([[0.1, 2, 3], [-4, 5e-30, 6e30]], dtype=np.float32)


def test_the_server_and_its_models_are_alive_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("dbl")
    assert client.is_model_ready("dbl", "1")
    assert not client.is_model_ready("dbl", "9")
    assert not client.is_model_ready("nope")


def test_metadata_is_what_the_client_parses(client: Any) -> None:
    assert client.get_server_metadata()["name"] == "mlserve"
    found = client.get_model_metadata("dbl")
    assert found["versions"] == ["1", "2"]
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_an_inference_is_answered_in_every_form(
    client: Any, binary: bool, binary_out: bool
) -> None:
    outputs = [triton.InferRequestedOutput("y", binary_data=binary_out)]
    np.testing.assert_array_equal(double(client, ROWS, binary=binary, outputs=outputs), ROWS * 2)


def test_without_outputs_all_come_back_in_binary_form(client: Any) -> None:
    reply = client.infer("dbl", [given("x", ROWS, binary=True)], request_id="7")
    assert reply.get_response()["id"] == "7"
    assert "binary_data_size" in reply.get_output("y")["parameters"]
    np.testing.assert_array_equal(reply.as_numpy("y"), ROWS * 2)


def test_a_version_is_chosen(client: Any) -> None:
    for version in ("1", "2"):
        reply = client.infer("dbl", [given("x", ROWS, binary=True)], model_version=version)
        assert reply.get_response()["model_version"] == version


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_passes_both_ways(client: Any, every: Any, binary: bool) -> None:
    # The client itself refuses to send FP16 as JSON, so that one is binary in any case.
    inputs = [given(name, a, binary=binary or name == "fp16") for name, a in every.items()]
    outputs = [triton.InferRequestedOutput(f"{name}_out", binary_data=binary) for name in every]
    reply = client.infer("every", inputs, outputs=outputs)
    for name, array in every.items():
        found = reply.as_numpy(f"{name}_out")
        if name == "bytes":
            found = np.array([x if isinstance(x, bytes) else x.encode() for x in found], object)
        assert found.dtype == array.dtype, name
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("binary", [True, False])
def test_text_passes_both_ways(client: Any, binary: bool) -> None:
    array = np.array(["häß".encode(), b"", b"a\nb"], dtype=np.object_)
    outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
    reply = client.infer("words", [given("x", array, binary=binary)], outputs=outputs)
    found = reply.as_numpy("y")
    assert [item if isinstance(item, bytes) else item.encode() for item in found] == list(array)


@pytest.mark.parametrize("request_algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_algorithm", [None, "gzip", "deflate"])
def test_both_ways_may_be_packed(
    client: Any, request_algorithm: str | None, response_algorithm: str | None
) -> None:
    found = double(
        client,
        ROWS,
        request_compression_algorithm=request_algorithm,
        response_compression_algorithm=response_algorithm,
    )
    np.testing.assert_array_equal(found, ROWS * 2)


def test_a_large_body_arrives_whole(client: Any) -> None:
    array = np.random.default_rng(1).normal(size=(50_000, 3)).astype(np.float32)
    np.testing.assert_array_equal(double(client, array), array * 2)


def test_parameters_and_timeouts_are_taken(client: Any) -> None:
    found = double(client, ROWS, priority=1, timeout=30_000_000, parameters={"mine": 1})
    np.testing.assert_array_equal(found, ROWS * 2)
    with pytest.raises(Exception, match="reserved"):
        double(client, ROWS, parameters={"triton_mine": 1})


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda c: c.get_model_metadata("nope"), "Request for unknown model: 'nope' is not found"),
        (
            lambda c: c.infer("dbl", [given("x", ROWS, binary=True)], model_version="9"),
            "Request for unknown model: 'dbl' version 9 is not found",
        ),
        (
            lambda c: c.infer("dbl", [given("zz", ROWS, binary=True)]),
            "unexpected inference input 'zz' for model 'dbl'",
        ),
        (
            lambda c: c.infer("dbl", [given("x", ROWS.astype(np.int32), binary=True)]),
            "inference input 'x' data-type is 'INT32', but model 'dbl' expects 'FP32'",
        ),
        (
            lambda c: c.infer("dbl", [given("x", ROWS[:, :2], binary=False)]),
            "unexpected shape for input 'x' for model 'dbl'. Expected [-1,3], got [2,2].",
        ),
        (
            lambda c: c.infer(
                "dbl",
                [given("x", ROWS, binary=True)],
                outputs=[triton.InferRequestedOutput("nah")],
            ),
            "unexpected inference output 'nah' for model 'dbl'",
        ),
        (
            lambda c: c.infer("dbl", [given("x", np.zeros((300_000, 3), np.float32), binary=True)]),
            "larger than",
        ),
    ],
)
def test_an_error_reaches_the_client_with_its_text(client: Any, call: Any, text: str) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException) as caught:
        call(client)
    assert text in str(caught.value)


def test_concurrent_requests_each_get_their_own_answer(served: Any) -> None:
    made = triton.InferenceServerClient(served.address, concurrency=8, network_timeout=30)
    try:
        arrays = [np.full((1 + n % 5, 3), n, np.float32) for n in range(64)]
        asked = [made.async_infer("dbl", [given("x", a, binary=True)]) for a in arrays]
        for array, one in zip(arrays, asked, strict=True):
            np.testing.assert_array_equal(one.get_result().as_numpy("y"), array * 2)
    finally:
        made.close()


def test_the_names_of_the_datatypes_are_the_clients() -> None:
    from tritonclient.utils import np_to_triton_dtype

    for name, dtype in DATATYPES.items():
        assert np_to_triton_dtype(dtype) == name
