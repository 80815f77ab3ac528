"""ONNX Runtime: the default engine, on the CPU or, where its build has it, on CUDA."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, InvalidRequest
from ..tensors import Tensors, TensorSpec
from .engine import EngineOptions

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxRuntimeEngine:
    """One session: the weights are in memory once, and `run` may be called from several threads."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # what it prints of an error is in the exception, too
        settings.intra_op_num_threads = options.threads or _affinity()
        settings.inter_op_num_threads = 1
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Spinning threads take the core that the event loop needs.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._configure(ort, settings, options)
        try:
            self._session = ort.InferenceSession(
                model, sess_options=settings, **self._providers(ort, options)
            )
        except Exception as error:  # ONNX Runtime's errors share no public base class
            raise EngineError(
                f"ONNX Runtime cannot load '{model}': {_first_line(error)}",
                hint="check that it is a whole ONNX file, with its external data beside it",
            ) from error
        self.inputs = tuple(_spec(node, model) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, model) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        self._text_inputs = [spec.name for spec in self.inputs if spec.datatype == "BYTES"]
        self._text_outputs = [spec.name for spec in self.outputs if spec.datatype == "BYTES"]
        # Text stays on the host: a GPU holds none.
        text = self._text_inputs or self._text_outputs
        on_gpu = options.device.startswith("cuda") and not text
        self._bound_to = ("cuda", _index(options.device)) if on_gpu else None

    @staticmethod
    def devices(model: Path) -> tuple[str, ...]:
        """Where this build of ONNX Runtime can run models, best first."""
        import onnxruntime as ort

        cuda = "CUDAExecutionProvider" in ort.get_available_providers()
        return ("cuda", "cpu") if cuda else ("cpu",)

    def _configure(self, ort: Any, settings: Any, options: EngineOptions) -> None:
        """Let a subclass add its own provider to the session's settings."""

    def _providers(self, ort: Any, options: EngineOptions) -> dict[str, Any]:
        if not options.device.startswith("cuda"):
            return {"providers": ["CPUExecutionProvider"]}
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise EngineError(
                f"device '{options.device}' was asked for, but this ONNX Runtime has no CUDA.",
                hint="install onnxruntime-gpu in place of onnxruntime, or take device 'cpu'",
            )
        cuda = {
            "device_id": _index(options.device),
            "use_tf32": "0",  # its 10 bits would not answer as the package was proven to
        }
        return {"providers": [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]}

    def run(self, tensors: Tensors) -> Tensors:
        """Run a batch. Raises `InvalidRequest` for an index that a table of the model lacks."""
        if self._text_inputs:
            tensors = dict(tensors)
            for name in self._text_inputs:
                tensors[name] = _to_text(tensors[name], name)
        try:
            if self._bound_to is None:
                arrays = self._session.run(self._output_names, tensors)
            else:
                arrays = self._run_bound(tensors, *self._bound_to)
        except Exception as error:  # ONNX Runtime's errors share no public base class
            wrong = _wrong_index(error)
            if wrong is None:
                raise
            raise wrong from error
        outputs = dict(zip(self._output_names, arrays, strict=True))
        for name in self._text_outputs:
            outputs[name] = _to_bytes(outputs[name])
        return outputs

    def _run_bound(self, tensors: Tensors, device: str, index: int) -> list[Any]:
        """One copy up, one down: without a binding each output would be copied twice."""
        import onnxruntime as ort

        binding = self._session.io_binding()
        for name, array in tensors.items():
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, index)
            binding.bind_ortvalue_input(name, value)
        for name in self._output_names:
            binding.bind_output(name, device, index)
        self._session.run_with_iobinding(binding)
        arrays: list[Any] = binding.copy_outputs_to_cpu()
        return arrays

    def close(self) -> None:
        """Free the session."""
        del self._session


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


_OUT_OF_BOUNDS = re.compile(
    r"idx=(?P<value>-?\d+) must be within the inclusive range \[(?P<least>-?\d+),(?P<most>-?\d+)\]"
    r"|running GatherND node.*invalid index found|Out of range value in index tensor"
)
"""What Gather says, and its siblings for slices and elements."""


def _wrong_index(error: Exception) -> InvalidRequest | None:
    """The client's mistake, where it is one: a number that stands in no row of a table."""
    found = _OUT_OF_BOUNDS.search(str(error))
    if found is None:
        return None
    if found["value"] is None:
        return InvalidRequest("a value of the request is no index that the model has")
    return InvalidRequest(
        f"a value of the request is {found['value']}, and the model takes indices "
        f"from {max(0, int(found['least']))} to {found['most']}"
    )


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _spec(node: Any, model: Path) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise EngineError(
            f"'{node.name}' of '{model}' is a {node.type}, which cannot be served.",
            hint="inputs and outputs must be tensors; sequences and maps (a scikit-learn ZipMap, "
            "for one) can be left out when the model is exported",
        )
    # A dimension is a number, a name, or None where the exporter gave neither.
    shape = tuple(
        size if isinstance(size, int) or size else ("batch" if axis == 0 else f"{node.name}_{axis}")
        for axis, size in enumerate(node.shape)
    )
    return TensorSpec(node.name, datatype, shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _to_text(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    try:
        flat = [item.decode() if isinstance(item, bytes) else str(item) for item in array.flat]
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"input '{name}' holds bytes that are no UTF-8: {error.reason}",
            hint="the model takes text",
        ) from error
    text = np.empty(len(flat), dtype=np.object_)
    text[:] = flat
    return text.reshape(array.shape)


def _to_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = [str(item).encode("utf-8") for item in array.flat]
    raw = np.empty(len(flat), dtype=np.object_)
    raw[:] = flat
    return raw.reshape(array.shape)
