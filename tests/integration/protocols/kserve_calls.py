"""What test_kserve.py runs in an environment that has the KServe SDK; it prints what it found.

python kserve_calls.py http://127.0.0.1:8000
"""

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROWS = np.array([[0.1, 2, 3], [-4, 5, 6]], dtype=np.float32)


def asked(binary, model="dbl"):
    item = InferInput(name="x", shape=list(ROWS.shape), datatype="FP32")
    item.set_data_from_numpy(ROWS, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[item], request_id="7")


async def version_2(url):
    found = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found["live"] = await client.is_server_live(url)
        found["ready"] = await client.is_server_ready(url)
        found["model"] = await client.is_model_ready(url, "dbl")
        found["unknown"] = await client.is_model_ready(url, "nope")
        for name, binary in (("json", False), ("binary", True)):
            reply = await client.infer(url, asked(binary), model_name="dbl")
            found[name] = reply.outputs[0].as_numpy().tolist()
            found[f"{name} id"] = reply.id
        try:
            await client.infer(url, asked(True, "nope"), model_name="nope")
        except httpx.HTTPStatusError as error:
            found["error"] = str(error)
    return found


async def version_1(url):
    found = {}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        found["live"] = await client.is_server_live(url)
        found["model"] = await client.is_model_ready(url, "dbl")
        reply = await client.infer(url, {"instances": ROWS.tolist()}, model_name="dbl")
        found["predictions"] = reply["predictions"]
    return found


url = sys.argv[1]
print(json.dumps({"v1": asyncio.run(version_1(url)), "v2": asyncio.run(version_2(url))}))
