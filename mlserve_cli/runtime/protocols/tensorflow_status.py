"""What TensorFlow Serving says of a model: its versions' states and its signature.

The same documents serve KServe's version 1 clients, which read `name` and `ready`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..manifest import Manifest
from ..tensors import TensorSpec
from .tensorflow_json import DEFAULT_SIGNATURE

DTYPES = {
    "BOOL": "DT_BOOL",
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "INT64": "DT_INT64",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}
"""Our datatypes by TensorFlow's names."""

STATES = {
    "READY": "AVAILABLE",
    "LOADING": "LOADING",
    "UNLOADING": "UNLOADING",
    "UNAVAILABLE": "END",
}


def status(versions: Iterable[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """`model_version_status` of versions, each with its state (as ours are called) and reason."""
    return [
        {
            "version": version,
            "state": STATES[state],
            "status": {
                "error_code": "UNKNOWN" if state == "UNAVAILABLE" and reason else "OK",
                "error_message": reason if state == "UNAVAILABLE" else "",
            },
        }
        for version, state, reason in versions
    ]


def metadata(manifest: Manifest) -> dict[str, Any]:
    """The signature of a model, in the JSON form of `GetModelMetadataResponse`."""
    signature = {
        "inputs": {spec.name: _info(spec) for spec in manifest.inputs},
        "outputs": {spec.name: _info(spec) for spec in manifest.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {
            "name": manifest.name,
            "signature_name": "",
            "version": manifest.version,
        },
        "metadata": {"signature_def": {"signature_def": {DEFAULT_SIGNATURE: signature}}},
    }


def _info(spec: TensorSpec) -> dict[str, Any]:
    sizes = [
        {"size": str(size), "name": name if isinstance(name, str) else ""}
        for size, name in zip(spec.wire_shape, spec.shape, strict=True)
    ]
    return {
        "dtype": DTYPES[spec.datatype],
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": spec.name,
    }
