"""Tensors and payloads as requests, and answers back as tensors, in each protocol."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlserve_cli.bench.live import rpc
from mlserve_cli.bench.live.place import Place
from mlserve_cli.bench.live.served import Served
from mlserve_cli.errors import MlserveError
from mlserve_cli.runtime import json_text
from mlserve_cli.runtime.errors import RequestError
from mlserve_cli.runtime.protocols import binary_tensors, json_tensors
from mlserve_cli.runtime.protocols.oip_messages import InferInput
from mlserve_cli.runtime.tensors import DATATYPES, Tensors, datatype_of, rows


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it is sent: its body, the headers that belong to it, and how many rows."""

    body: bytes
    headers: Mapping[str, str]
    rows: int

    def http(self, place: Place, path: str) -> bytes:
        """Head and body."""
        headers = {**place.headers, **self.headers, "Content-Length": str(len(self.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + self.body


def request(served: Served, tensors: Tensors) -> Request:
    """Tensors in the protocol of `served`, which is none of those that take payloads."""
    count = rows(tensors) if served.signature is None or served.signature.has_batch else 1
    match served.protocol:
        case "oip-grpc":
            return Request(rpc.message(served, tensors), {}, count)
        case "oip-binary":
            return _binary(tensors, count)
        case "oip-json":
            return _json(tensors, count)
        case "tensorflow":
            return _tensorflow(tensors, count)
        case _:
            raise ValueError(f"{served.protocol} takes payloads")


def outputs(served: Served, body: bytes) -> Tensors:
    """The tensors of an answer. Raises `MlserveError` where it is none of the protocol."""
    try:
        match served.protocol:
            case "oip-grpc":
                return rpc.outputs(body)
            case "oip-binary" | "oip-json":
                return _oip_outputs(body)
            case "tensorflow":
                return _tensorflow_outputs(served, body)
            case "predict":
                return {"predictions": np.array(_object(json.loads(body)["predictions"]))}
            case _:
                return {"answer": np.array(_object([body]))}
    except MlserveError:
        raise
    except RequestError as error:
        raise MlserveError(f"an answer cannot be read: {error.message}.") from error
    except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError) as error:
        raise MlserveError(
            f"an answer is no {served.protocol}: {type(error).__name__}: {error}."
        ) from error


def _object(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.empty(len(values), dtype=np.object_)
    found[:] = values
    return found


def _binary(tensors: Tensors, count: int) -> Request:
    entries, parts = [], []
    for name, array in tensors.items():
        raw = binary_tensors.encode(np.ascontiguousarray(array))
        parts.append(raw)
        entries.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype_of(array),
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    text = json_text.encode({"inputs": entries, "parameters": {"binary_data_output": True}})
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text)),
    }
    return Request(b"".join([text, *parts]), headers, count)


def _json(tensors: Tensors, count: int) -> Request:
    entries, finite = [], True
    for name, array in tensors.items():
        data, all_finite = json_tensors.encode(array, name)
        finite = finite and all_finite
        entries.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype_of(array),
                "data": data,
            }
        )
    body = json_text.encode({"inputs": entries}, finite=finite)
    return Request(body, {"Content-Type": "application/json"}, count)


def _tensorflow(tensors: Tensors, count: int) -> Request:
    """By rows where every tensor has one for each, else by columns."""
    columns = {name: _values(array) for name, array in tensors.items()}
    alone = next(iter(columns.values())) if len(columns) == 1 else None
    document: dict[str, Any]
    if all(array.ndim and len(array) == rows(tensors) for array in tensors.values()):
        by_row = zip(*columns.values(), strict=True)
        instances = alone or [dict(zip(columns, row, strict=True)) for row in by_row]
        document = {"instances": instances}
    else:
        document = {"inputs": columns if alone is None else alone}
    finite = all(array.dtype.kind != "f" or np.isfinite(array).all() for array in tensors.values())
    body = json_text.encode(document, finite=finite)
    return Request(body, {"Content-Type": "application/json"}, count)


def _values(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind != "O":
        return array.tolist()
    flat = [_text(item) for item in array.ravel()]
    return _object(flat).reshape(array.shape).tolist()


def _text(item: Any) -> Any:
    raw = item if isinstance(item, bytes) else str(item).encode()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(raw).decode()}


def _oip_outputs(body: bytes) -> Tensors:
    # The length of the JSON stands in a header that a sample does not have: it ends by itself.
    document, start = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    found: Tensors = {}
    for entry in document["outputs"]:
        name, shape, datatype = entry["name"], entry["shape"], entry["datatype"]
        item = InferInput(name, shape, datatype, data=entry.get("data"))
        size = (entry.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found[name] = json_tensors.decode(item)
        else:
            found[name] = binary_tensors.decode(item, body, start, size)
            start += size
    return found


def _tensorflow_outputs(served: Served, body: bytes) -> Tensors:
    document = json.loads(body)
    specs = served.signature.outputs if served.signature else ()
    dtypes = {spec.name: DATATYPES[spec.datatype] for spec in specs}
    answer = document["predictions"] if "predictions" in document else document["outputs"]
    if "predictions" in document and answer and isinstance(answer[0], dict):
        answer = {name: [row[name] for row in answer] for name in answer[0]}
    elif not isinstance(answer, dict):
        answer = {specs[0].name if specs else "output": answer}
    found: Tensors = {}
    for name, values in answer.items():
        array = np.array(values, dtypes.get(name))
        if array.dtype.kind == "O":
            array = _object([_bytes(item) for item in array.ravel()]).reshape(array.shape)
        found[name] = array
    return found


def _bytes(item: Any) -> bytes:
    return base64.b64decode(item["b64"]) if isinstance(item, dict) else str(item).encode()
