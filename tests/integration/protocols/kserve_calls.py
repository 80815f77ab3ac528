"""What test_kserve.py runs in an environment that has the KServe SDK; it prints what it found.

python kserve_calls.py http://127.0.0.1:8000 127.0.0.1:8001
"""

import asyncio
import inspect
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.errors import UnsupportedProtocol
from kserve.protocol.infer_type import RequestedOutput

ROWS = np.array([[0.1, 2, 3], [-4, 5, 6]], dtype=np.float32)
WORDS = np.array([b"h\xc3\xa4\xc3\x9f", b"", b"a\nb"], dtype=np.object_)


class Recorder:
    """A client that remembers which of its public methods were called."""

    def __init__(self, client):
        self._client = client
        self.called = set()

    def __getattr__(self, name):
        self.called.add(name)
        return getattr(self._client, name)

    def report(self):
        """Its methods, and those of them that were called."""
        methods = inspect.getmembers(type(self._client), inspect.isfunction)
        public = sorted(name for name, _ in methods if not name.startswith("_"))
        return {"methods": public, "called": sorted(self.called)}


def asked(array=ROWS, model="dbl", *, binary=True, name="x", **more):
    datatype = "BYTES" if array.dtype == np.object_ else "FP32"
    item = InferInput(name=name, shape=list(array.shape), datatype=datatype)
    item.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[item], request_id="7", **more)


def texts(output):
    return [x if isinstance(x, str) else x.decode() for x in output.as_numpy().tolist()]


async def refused(call, kind):
    """What an error of that kind says."""
    try:
        await call
    except kind as error:
        return error.details() if isinstance(error, grpc.RpcError) else str(error)
    return "it was not refused"


async def version_2(url):
    found = {}
    client = Recorder(InferenceRESTClient(RESTConfig(protocol="v2", retries=0)))
    found["live"] = await client.is_server_live(url)
    found["ready"] = await client.is_server_ready(url)
    found["model"] = await client.is_model_ready(url, "dbl")
    found["unknown"] = await client.is_model_ready(url, "nope")
    for name, binary in (("json", False), ("binary", True)):
        headers = {}
        reply = await client.infer(
            url, asked(binary=binary), model_name="dbl", response_headers=headers
        )
        found[name] = reply.outputs[0].as_numpy().tolist()
        found[f"{name} id"] = reply.id
        found[f"{name} model"] = [reply.model_name, reply.model_version]
        reply = await client.infer(url, asked(WORDS, "words", binary=binary), model_name="words")
        found[f"{name} words"] = texts(reply.outputs[0])
    wanted = [RequestedOutput("y", {"binary_data": True})]
    reply = await client.infer(
        url,
        asked(request_outputs=wanted, parameters={"priority": 1}),
        model_name="dbl",
        response_headers=headers,
    )
    found["wanted"] = reply.outputs[0].as_numpy().tolist()
    found["wanted in binary"] = "inference-header-content-length" in headers
    found["a graph's"] = await client.infer(
        f"{url}/v2/models/dbl/infer",
        {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
        is_graph_endpoint=True,
    )
    for name, request, model in (
        ("error", asked(model="nope"), "nope"),
        ("wrong input", asked(name="z"), "dbl"),
    ):
        call = client.infer(url, request, model_name=model)
        found[name] = await refused(call, httpx.HTTPStatusError)
    found["explain"] = await refused(client.explain(url, "dbl", {}), UnsupportedProtocol)
    await client.close()
    return found | client.report()


async def version_1(url):
    found = {}
    client = Recorder(InferenceRESTClient(RESTConfig(protocol="v1", retries=0)))
    found["live"] = await client.is_server_live(url)
    found["ready"] = await refused(client.is_server_ready(url), UnsupportedProtocol)
    found["model"] = await client.is_model_ready(url, "dbl")
    unknown = client.is_model_ready(url, "nope")
    found["unknown"] = await refused(unknown, httpx.HTTPStatusError)
    reply = await client.infer(url, {"instances": ROWS.tolist()}, model_name="dbl")
    found["predictions"] = reply["predictions"]
    wrong = client.infer(url, {"instances": [[1, 2]]}, model_name="dbl")
    found["wrong"] = await refused(wrong, httpx.HTTPStatusError)
    explain = client.explain(url, "dbl", {"instances": ROWS.tolist()})
    found["explain"] = await refused(explain, httpx.HTTPStatusError)
    await client.close()
    return found | client.report()


async def over_grpc(address):
    found = {}
    client = Recorder(InferenceGRPCClient(address, retries=0, timeout=30))
    found["live"] = await client.is_server_live()
    found["ready"] = await client.is_server_ready()
    found["model"] = await client.is_model_ready("dbl")
    found["unknown"] = await client.is_model_ready("nope")
    for name, binary in (("typed", False), ("raw", True)):
        reply = await client.infer(asked(binary=binary), headers=(("x-request-id", "9"),))
        found[name] = reply.outputs[0].as_numpy().tolist()
        found[f"{name} id"] = reply.id
        reply = await client.infer(asked(WORDS, "words", binary=binary))
        found[f"{name} words"] = texts(reply.outputs[0])
    found["error"] = await refused(client.infer(asked(model="nope")), grpc.RpcError)
    await client.close()
    return found | client.report()


async def main(url, address):
    return {
        "v1": await version_1(url),
        "v2": await version_2(url),
        "grpc": await over_grpc(address),
    }


print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2]))))
