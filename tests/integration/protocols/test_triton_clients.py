"""Every public method of tritonclient's two HTTP clients, the blocking one and the asyncio one.

What is not offered is called as well: its answer is a sentence that the client shows.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

http = pytest.importorskip("tritonclient.http")
aio = pytest.importorskip("tritonclient.http.aio")
utils = pytest.importorskip("tritonclient.utils")
pytestmark = pytest.mark.filterwarnings("ignore")  # of gevent and aiohttp, when they close

ROWS = np.array([[0.1, 2, 3], [-4, 5e-30, 6e30]], dtype=np.float32)


class Client:
    """Either client behind one face: calls block."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind = http.InferenceServerClient if kind == "http" else aio.InferenceServerClient
        self.called: set[str] = set()
        self._runner = asyncio.Runner()
        self._made = self._run(self._make(address)) if kind == "aio" else self.kind(address)

    async def _make(self, address: str) -> Any:
        return self.kind(address)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._made, name)
        self.called.add(name)
        return lambda *given, **named: self._run(method(*given, **named))

    def _run(self, found: Any) -> Any:
        return self._runner.run(found) if inspect.iscoroutine(found) else found

    def shut(self) -> None:
        self._run(self._made.close())
        self._runner.close()
        if self.kind is aio.InferenceServerClient:
            # It never releases a reply that is an error; collected here, that is not warned of
            # in some other test.
            del self._made
            gc.collect()


@pytest.fixture(params=["http", "aio"])
def client(request: pytest.FixtureRequest, served: Any) -> Iterator[Client]:
    made = Client(request.param, served.address)
    yield made
    made.shut()


def given(array: Any = ROWS, name: str = "x") -> Any:
    made = http.InferInput(name, list(array.shape), utils.np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def refused(call: Callable[[], Any], text: str, status: str) -> None:
    with pytest.raises(utils.InferenceServerException) as caught:
        call()
    assert text in caught.value.message()
    assert caught.value.status() == status


def health(c: Client) -> None:
    assert c.is_server_live() is True
    assert c.is_server_ready() is True
    assert c.is_model_ready("dbl") is True
    assert c.is_model_ready("dbl", "1") is True
    assert c.is_model_ready("dbl", "9") is False
    assert c.is_model_ready("nope") is False


def server_metadata(c: Client) -> None:
    found = c.get_server_metadata(query_params={"a": 1}, headers={"X-Mine": "yes"})
    assert found["name"] == "mlserve"
    assert "model_repository" in found["extensions"]
    assert "sequence" not in found["extensions"]


def model_metadata(c: Client) -> None:
    found = c.get_model_metadata("dbl", "1")
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    refused(
        lambda: c.get_model_metadata("nope"),
        "Request for unknown model: 'nope' is not found",
        "404",
    )


def config(c: Client) -> None:
    found = c.get_model_config("dbl")
    assert found["max_batch_size"] >= 1
    assert found["output"][0]["dims"] == [3]
    refused(lambda: c.get_model_config("dbl", "9"), "'dbl' version 9 is not found", "404")


def counted(c: Client, *named: str) -> int:
    found = c.get_inference_statistics(*named)["model_stats"]
    mine = [each for each in found if (each["name"], each["version"]) == ("dbl", "2")]
    return int(mine[0]["inference_stats"]["success"]["count"])


def inference_statistics(c: Client) -> None:
    before = counted(c)
    c.infer("dbl", [given()], model_version="2")
    assert counted(c) == counted(c, "dbl") == counted(c, "dbl", "2") == before + 1


def index(c: Client) -> None:
    found = c.get_model_repository_index()
    assert {"name": "dbl", "version": "2", "state": "READY"} in found


def load_and_unload(c: Client) -> None:
    c.unload_model("price")
    try:
        assert not c.is_model_ready("price")
        states = {each["name"]: each["state"] for each in c.get_model_repository_index()}
        assert states["price"] in ("UNLOADING", "UNAVAILABLE")
        c.unload_model("price")
    finally:
        c.load_model("price")
    assert c.is_model_ready("price")
    c.load_model("price")
    refused(lambda: c.load_model("nope"), "failed to load 'nope', failed to poll", "500")
    refused(lambda: c.load_model("price", config="{}"), "cannot be loaded with 'config'", "501")
    refused(
        lambda: c.load_model("price", config="{}", files={"file:1/model.onnx": b"onnx"}),
        "cannot be loaded with",
        "501",
    )
    refused(lambda: c.unload_model("price", unload_dependents=True), "cannot be unloaded", "501")


def infer(c: Client) -> None:
    outputs = [http.InferRequestedOutput("y", class_count=2)]
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
            parameters={"mine": "yes"},
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        np.testing.assert_array_equal(reply.as_numpy("y"), ROWS * 2)
        assert reply.get_response()["id"] == "seven"
        assert reply.get_response()["model_version"] == "1"
    refused(
        lambda: c.infer("dbl", [given(ROWS.astype(np.int32))], request_id="42"),
        "[request id: 42] inference input 'x' data-type is 'INT32', but model 'dbl' expects 'FP32'",
        "400",
    )
    refused(lambda: c.infer("dbl", [given(name="z")]), "unexpected inference input 'z'", "400")
    refused(
        lambda: c.infer("dbl", [given(), given(name="z")]), "expected 1 inputs but got 2", "400"
    )


def infer_shared_memory(c: Client) -> None:
    item = http.InferInput("x", [2, 3], "FP32")
    item.set_shared_memory("region", 24)
    refused(lambda: c.infer("dbl", [item]), "shared memory, which is not served", "501")
    output = http.InferRequestedOutput("y")
    output.set_shared_memory("region", 24)
    refused(lambda: c.infer("dbl", [given()], outputs=[output]), "shared memory", "501")


def sequences(c: Client) -> None:
    refused(
        lambda: c.infer("dbl", [given()], sequence_id=7, sequence_start=True),
        "sequences are not served",
        "501",
    )


def infer_in_all_ways(c: Client) -> None:
    infer(c)
    infer_shared_memory(c)
    sequences(c)


def async_infer(c: Client) -> None:
    asked = [c.async_infer("dbl", [given(ROWS * n)]) for n in range(1, 5)]
    for n, one in enumerate(asked, 1):
        np.testing.assert_array_equal(one.get_result().as_numpy("y"), ROWS * n * 2)


def bodies_by_hand(c: Client) -> None:
    import httpx2

    body, length = c.generate_request_body([given()])
    headers = {"Inference-Header-Content-Length": str(length)}
    url = f"{ADDRESS['url']}/v2/models/dbl/infer"
    reply = httpx2.post(url, content=bytes(body), headers=headers)
    start = int(reply.headers["inference-header-content-length"])
    found = c.parse_response_body(reply.content, header_length=start)
    np.testing.assert_array_equal(found.as_numpy("y"), ROWS * 2)


def system_memory(c: Client) -> None:
    text = "system shared memory is not served"
    refused(lambda: c.get_system_shared_memory_status(), text, "501")
    refused(lambda: c.get_system_shared_memory_status("r"), text, "501")
    refused(lambda: c.register_system_shared_memory("r", "/r", 24), text, "501")
    refused(lambda: c.unregister_system_shared_memory(), text, "501")
    refused(lambda: c.unregister_system_shared_memory("r"), text, "501")


def cuda_memory(c: Client) -> None:
    text = "CUDA shared memory is not served"
    refused(lambda: c.get_cuda_shared_memory_status(), text, "501")
    refused(lambda: c.register_cuda_shared_memory("r", b"AAAA", 0, 24), text, "501")
    refused(lambda: c.unregister_cuda_shared_memory("r"), text, "501")


def tracing(c: Client) -> None:
    text = "what is traced cannot be changed"
    refused(lambda: c.get_trace_settings(), text, "501")
    refused(lambda: c.get_trace_settings("dbl"), text, "501")
    refused(lambda: c.update_trace_settings(settings={"trace_rate": "1"}), text, "501")
    refused(lambda: c.update_trace_settings("dbl", {"trace_rate": "1"}), text, "501")


def logging(c: Client) -> None:
    text = "what is logged cannot be changed"
    refused(lambda: c.get_log_settings(), text, "501")
    refused(lambda: c.update_log_settings({"log_verbose_level": 1}), text, "501")


def plugins(c: Client) -> None:
    from tritonclient.http.auth import BasicAuth

    assert c.plugin() is None
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
    "close": close,
    "generate_request_body": bodies_by_hand,
    "get_cuda_shared_memory_status": cuda_memory,
    "get_inference_statistics": inference_statistics,
    "get_log_settings": logging,
    "get_model_config": config,
    "get_model_metadata": model_metadata,
    "get_model_repository_index": index,
    "get_server_metadata": server_metadata,
    "get_system_shared_memory_status": system_memory,
    "get_trace_settings": tracing,
    "infer": infer_in_all_ways,
    "is_model_ready": health,
    "is_server_live": health,
    "is_server_ready": health,
    "load_model": load_and_unload,
    "parse_response_body": bodies_by_hand,
    "plugin": plugins,
    "register_cuda_shared_memory": cuda_memory,
    "register_plugin": plugins,
    "register_system_shared_memory": system_memory,
    "unload_model": load_and_unload,
    "unregister_cuda_shared_memory": cuda_memory,
    "unregister_plugin": plugins,
    "unregister_system_shared_memory": system_memory,
    "update_log_settings": logging,
    "update_trace_settings": tracing,
}
"""Each public method → what calls it and looks at what comes back."""

ADDRESS: dict[str, str] = {}


def public(kind: Any) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def test_no_public_method_of_either_client_is_left_out() -> None:
    assert public(http.InferenceServerClient) == CALLS.keys()
    assert public(aio.InferenceServerClient) == CALLS.keys() - {"async_infer"}


@pytest.mark.parametrize("name", CALLS)
def test_a_method_does_what_the_client_expects(name: str, client: Client, served: Any) -> None:
    if name not in public(client.kind):
        pytest.skip("awaiting infer is its asynchronous form")
    ADDRESS["url"] = served.url
    CALLS[name](client)
    assert name in client.called
