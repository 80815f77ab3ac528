"""Every public method of tritonclient's two gRPC clients, the blocking one and the asyncio one."""

from __future__ import annotations

import asyncio
import inspect
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

rpc = pytest.importorskip("tritonclient.grpc")
aio = pytest.importorskip("tritonclient.grpc.aio")
utils = pytest.importorskip("tritonclient.utils")

ROWS = np.array([[0.1, 2, 3], [-4, 5e-30, 6e30]], dtype=np.float32)


class Client:
    """Either client behind one face: calls block."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind = rpc.InferenceServerClient if kind == "grpc" else aio.InferenceServerClient
        self.called: set[str] = set()
        self._runner = asyncio.Runner()
        self._made = self.run(self._make(address)) if kind == "aio" else self.kind(address)

    async def _make(self, address: str) -> Any:
        return self.kind(address)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._made, name)
        self.called.add(name)
        return lambda *given, **named: self.run(method(*given, **named))

    def run(self, found: Any) -> Any:
        return self._runner.run(found) if inspect.iscoroutine(found) else found

    def shut(self) -> None:
        self.run(self._made.close())
        self._runner.close()


@pytest.fixture(params=["grpc", "aio"])
def client(request: pytest.FixtureRequest, served: Any) -> Iterator[Client]:
    made = Client(request.param, served.grpc)
    yield made
    made.shut()


def given(array: Any = ROWS, name: str = "x") -> Any:
    made = rpc.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def refused(call: Callable[[], Any], text: str, status: str) -> None:
    with pytest.raises(utils.InferenceServerException) as caught:
        call()
    assert text in caught.value.message()
    assert caught.value.status() == f"StatusCode.{status}"


def health(c: Client) -> None:
    assert c.is_server_live() is True
    assert c.is_server_ready() is True
    assert c.is_model_ready("dbl") is True
    assert c.is_model_ready("dbl", "1") is True
    assert c.is_model_ready("dbl", "9") is False
    assert c.is_model_ready("nope") is False


def server_metadata(c: Client) -> None:
    found = c.get_server_metadata(headers={"x-mine": "yes"})
    assert found.name == "mlserve"
    assert "model_repository" in found.extensions


def model_metadata(c: Client) -> None:
    found = c.get_model_metadata("dbl", "1", as_json=True)
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}]
    assert found["versions"] == ["1", "2"]
    refused(
        lambda: c.get_model_metadata("nope"),
        "Request for unknown model: 'nope' is not found",
        "NOT_FOUND",
    )


def config(c: Client) -> None:
    found = c.get_model_config("dbl").config
    assert found.max_batch_size >= 1
    assert list(found.output[0].dims) == [3]
    assert found.input[0].data_type == 11  # TYPE_FP32
    refused(lambda: c.get_model_config("dbl", "9"), "'dbl' version 9 is not found", "NOT_FOUND")


def counted(c: Client, *named: str) -> int:
    found = c.get_inference_statistics(*named).model_stats
    mine = [each for each in found if (each.name, each.version) == ("dbl", "2")]
    return int(mine[0].inference_stats.success.count)


def inference_statistics(c: Client) -> None:
    before = counted(c)
    c.infer("dbl", [given()], model_version="2")
    assert counted(c) == counted(c, "dbl") == counted(c, "dbl", "2") == before + 1
    refused(lambda: c.get_inference_statistics("nope"), "unknown model", "NOT_FOUND")


def index(c: Client) -> None:
    found = c.get_model_repository_index().models
    assert ("dbl", "2", "READY") in [(each.name, each.version, each.state) for each in found]


def load_and_unload(c: Client) -> None:
    c.unload_model("price")
    try:
        assert not c.is_model_ready("price")
        c.unload_model("price")  # it is not loaded, and that was wanted
    finally:
        c.load_model("price")
    assert c.is_model_ready("price")
    refused(lambda: c.load_model("nope"), "failed to load 'nope', failed to poll", "INTERNAL")
    with_config = "cannot be loaded with 'config'"
    refused(lambda: c.load_model("price", config="{}"), with_config, "UNIMPLEMENTED")
    refused(
        lambda: c.load_model("price", config="{}", files={"file:1/model.onnx": b"onnx"}),
        "cannot be loaded with",
        "UNIMPLEMENTED",
    )
    refused(
        lambda: c.unload_model("price", unload_dependents=True),
        "cannot be unloaded",
        "UNIMPLEMENTED",
    )


def infer(c: Client) -> None:
    outputs = [rpc.InferRequestedOutput("y", class_count=2)]
    found = c.infer("dbl", [given()], outputs=outputs).as_numpy("y")
    assert found.tolist() == [[b"6.0:2", b"4.0:1"], [b"1.2e+31:2", b"1e-29:1"]]
    for algorithm in (None, "gzip", "deflate"):
        reply = c.infer(
            "dbl",
            [given()],
            model_version="1",
            request_id="seven",
            priority=1,
            timeout=30_000_000,
            client_timeout=30,
            parameters={"mine": "yes"},
            compression_algorithm=algorithm,
        )
        np.testing.assert_array_equal(reply.as_numpy("y"), ROWS * 2)
        assert reply.get_response().id == "seven"
        assert reply.get_response().model_version == "1"
    wrong = [
        (
            [given(np.ones((2, 3), np.int32))],
            "data-type is 'INT32', but model 'dbl' expects 'FP32'",
        ),
        ([given(name="z")], "unexpected inference input 'z' for model 'dbl'"),
        ([given(), given()], "input 'x' already exists in request"),
        ([given(ROWS[0])], "Expected [-1,3], got [3]"),
    ]
    for inputs, text in wrong:
        refused(lambda inputs=inputs: c.infer("dbl", inputs), text, "INVALID_ARGUMENT")
    refused(
        lambda: c.infer("dbl", [given(name="z")], request_id="42"),
        "[request id: 42] unexpected",
        "INVALID_ARGUMENT",
    )
    refused(lambda: c.infer("nope", [given()]), "unknown model: 'nope'", "NOT_FOUND")
    nothing_of_it = [rpc.InferRequestedOutput("nah")]
    refused(
        lambda: c.infer("dbl", [given()], outputs=nothing_of_it),
        "unexpected inference output 'nah' for model 'dbl'",
        "INVALID_ARGUMENT",
    )
    large = np.zeros((200_000, 3), np.float32)  # 2.4 MB, where 2 MiB are allowed
    refused(lambda: c.infer("dbl", [given(large)]), "larger than max", "RESOURCE_EXHAUSTED")
    shared = rpc.InferInput("x", [2, 3], "FP32")
    shared.set_shared_memory("region", 24)
    refused(lambda: c.infer("dbl", [shared]), "shared memory, which is not", "UNIMPLEMENTED")
    refused(
        lambda: c.infer("dbl", [given()], sequence_id=7, sequence_start=True),
        "sequences are not served",
        "UNIMPLEMENTED",
    )


def async_infer(c: Client) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    for _ in range(4):
        c.async_infer("dbl", [given()], callback=lambda result, error: answers.put((result, error)))
    for _ in range(4):
        result, error = answers.get(timeout=30)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), ROWS * 2)


def streams(c: Client) -> None:
    """Answers come in order; one that fails says so and ends nothing."""
    wanted = [("dbl", "0"), ("nope", "1"), ("dbl", "2"), ("dbl", "3")]
    found = streamed_aio(c, wanted) if c.kind is aio.InferenceServerClient else streamed(c, wanted)
    assert [error is None for _, error in found] == [True, False, True, True]
    assert "[request id: 1] Request for unknown model: 'nope'" in found[1][1].message()
    for place in (0, 2, 3):
        response = found[place][0].get_response()
        assert response.id == str(place)
        if c.kind is rpc.InferenceServerClient:  # the other one never asks for it
            assert response.parameters["triton_final_response"].bool_param is True
        np.testing.assert_array_equal(found[place][0].as_numpy("y"), ROWS * 2)


def streamed(c: Client, wanted: list[tuple[str, str]]) -> list[Any]:
    answers: queue.Queue[Any] = queue.Queue()
    c.start_stream(callback=lambda result, error: answers.put((result, error)))
    for model, identity in wanted:
        c.async_stream_infer(
            model, [given()], request_id=identity, enable_empty_final_response=True
        )
    found = [answers.get(timeout=30) for _ in wanted]
    c.stop_stream()
    return found


def streamed_aio(c: Client, wanted: list[tuple[str, str]]) -> list[Any]:
    async def requests() -> AsyncIterator[Any]:
        for model, identity in wanted:
            yield {
                "model_name": model,
                "inputs": [given()],
                "request_id": identity,
            }

    answers = c.stream_infer(requests())

    async def read() -> list[Any]:
        return [each async for each in answers]

    return list(c.run(read()))


def system_memory(c: Client) -> None:
    text = "system shared memory is not served"
    refused(lambda: c.get_system_shared_memory_status(), text, "UNIMPLEMENTED")
    refused(lambda: c.register_system_shared_memory("r", "/r", 24), text, "UNIMPLEMENTED")
    refused(lambda: c.unregister_system_shared_memory("r"), text, "UNIMPLEMENTED")


def cuda_memory(c: Client) -> None:
    text = "CUDA shared memory is not served"
    refused(lambda: c.get_cuda_shared_memory_status(), text, "UNIMPLEMENTED")
    refused(lambda: c.register_cuda_shared_memory("r", b"AAAA", 0, 24), text, "UNIMPLEMENTED")
    refused(lambda: c.unregister_cuda_shared_memory("r"), text, "UNIMPLEMENTED")


def tracing(c: Client) -> None:
    text = "what is traced cannot be changed"
    refused(lambda: c.get_trace_settings("dbl"), text, "UNIMPLEMENTED")
    settings = {"trace_rate": "1"}
    refused(lambda: c.update_trace_settings(settings=settings), text, "UNIMPLEMENTED")


def logging(c: Client) -> None:
    text = "what is logged cannot be changed"
    refused(lambda: c.get_log_settings(), text, "UNIMPLEMENTED")
    refused(lambda: c.update_log_settings({"log_verbose_level": 1}), text, "UNIMPLEMENTED")


def plugins(c: Client) -> None:
    from tritonclient.grpc.auth import BasicAuth

    mine = BasicAuth("somebody", "secret")
    c.register_plugin(mine)
    assert c.plugin() is mine
    assert c.is_server_live()
    c.unregister_plugin()
    assert c.plugin() is None


def close(c: Client) -> None:
    assert c.is_server_live()
    c.close()


CALLS: dict[str, Callable[[Client], None]] = {
    "async_infer": async_infer,
    "async_stream_infer": streams,
    "close": close,
    "get_cuda_shared_memory_status": cuda_memory,
    "get_inference_statistics": inference_statistics,
    "get_log_settings": logging,
    "get_model_config": config,
    "get_model_metadata": model_metadata,
    "get_model_repository_index": index,
    "get_server_metadata": server_metadata,
    "get_system_shared_memory_status": system_memory,
    "get_trace_settings": tracing,
    "infer": infer,
    "is_model_ready": health,
    "is_server_live": health,
    "is_server_ready": health,
    "load_model": load_and_unload,
    "plugin": plugins,
    "register_cuda_shared_memory": cuda_memory,
    "register_plugin": plugins,
    "register_system_shared_memory": system_memory,
    "start_stream": streams,
    "stop_stream": streams,
    "stream_infer": streams,
    "unload_model": load_and_unload,
    "unregister_cuda_shared_memory": cuda_memory,
    "unregister_plugin": plugins,
    "unregister_system_shared_memory": system_memory,
    "update_log_settings": logging,
    "update_trace_settings": tracing,
}
"""Each public method → what calls it and looks at what comes back."""


def public(kind: Any) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def test_no_public_method_of_either_grpc_client_is_left_out() -> None:
    assert public(rpc.InferenceServerClient) | public(aio.InferenceServerClient) == CALLS.keys()


@pytest.mark.parametrize("name", CALLS)
def test_a_grpc_method_does_what_the_client_expects(name: str, client: Client) -> None:
    if name not in public(client.kind):
        pytest.skip("the other client has it")
    CALLS[name](client)
    assert name in client.called
