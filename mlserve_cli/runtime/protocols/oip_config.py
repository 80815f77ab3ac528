"""A model's configuration, as Triton's model configuration extension prints it.

Clients read the batch limit, the inputs and the outputs from it; perf_analyzer does so before it
sends anything. Keys keep the names of Triton's `ModelConfig`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..manifest import Manifest
from ..tensors import TensorSpec

if TYPE_CHECKING:
    from ..registry import LoadedModel

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "openvino": "onnxruntime_onnx"}
"""What Triton and KServe call the engines that they know too."""


def model_config(model: LoadedModel) -> dict[str, Any]:
    """The configuration of one loaded version, as it really runs."""
    manifest = model.manifest
    batched = batches(manifest)
    document: dict[str, Any] = {
        "name": manifest.name,
        "platform": PLATFORMS.get(manifest.engine, manifest.engine),
        "backend": manifest.engine,
        "runtime": "",
        "version_policy": {"specific": {"versions": _numbers(manifest.version)}},
        "max_batch_size": model.batcher.max_batch if batched else 0,
        "input": [
            {
                **_tensor(spec, batched),
                "format": "FORMAT_NONE",
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": False,
            }
            for spec in manifest.inputs
        ],
        "output": [
            {**_tensor(spec, batched), "label_filename": "", "is_shape_tensor": False}
            for spec in manifest.outputs
        ],
        "instance_group": [
            {
                "name": manifest.name,
                "kind": "KIND_GPU" if model.sizing.device == "cuda" else "KIND_CPU",
                "count": model.batcher.workers,
                "gpus": [],
            }
        ],
        "default_model_filename": manifest.model,
        "parameters": {
            "version": {"string_value": manifest.version},
            "variant": {"string_value": manifest.variant},
            "digest": {"string_value": manifest.digest},
        },
    }
    if batched:
        document["dynamic_batching"] = {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": round(model.sizing.max_delay_ms * 1000),
            "preserve_ordering": False,
        }
    return document


def batches(manifest: Manifest) -> bool:
    """Whether every tensor's first dimension is a batch, which Triton leaves out of `dims`."""
    return all(spec.has_batch for spec in (*manifest.inputs, *manifest.outputs))


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return {
        "name": spec.name,
        "data_type": f"TYPE_{kind}",
        "dims": spec.wire_shape[1:] if batched else spec.wire_shape,
    }


def _numbers(version: str) -> list[int]:
    """The version, if it is one of those that Triton could write: a whole number of 63 bits."""
    fits = version.isdecimal() and version.isascii() and int(version) < 2**63
    return [int(version)] if fits else []
