"""PyTorch: a torch.export program or an AOTInductor package, on the CPU or on a GPU.

On a GPU a run goes through one of the engine's lanes (see `lane.py`): a stream of its own, pinned
memory, and one CUDA graph for each batch size.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from queue import LifoQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import EngineError, InvalidRequest
from ..tensors import Tensors
from . import archive, program
from .engine import EngineOptions
from .lane import Lane

if TYPE_CHECKING:
    import torch

_HINT = "pip install torch, from PyTorch's CPU builds where there is no GPU"


class TorchEngine:
    """One model in memory once; runs go on side by side in as many lanes as it has streams."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        found = archive.read(model)
        torch = _import()
        device = _device(torch, options.device)
        self._torch = torch
        self._threads = options.threads
        signature, self._call = program.load(found, device, streams=options.streams)
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._limits = signature.limits
        self._names = [spec.name for spec in self.inputs]
        self._free: LifoQueue[Lane] | None = None
        self._device = device
        if device.type == "cuda":
            # The 10 bits of TF32 would not answer as the package was proven to.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            self._free = _lanes(self._call, signature, device, options)

    @staticmethod
    def devices(model: Path) -> tuple[str, ...]:
        """Where the file can run on this machine, best first."""
        compiled = archive.read(model).compiled
        if compiled is not None:
            return (compiled.device,)
        return ("cuda", "cpu") if _import().cuda.is_available() else ("cpu",)

    def free_bytes(self) -> int:
        """What is left of the GPU's memory; 0 on the CPU."""
        if self._free is None:
            return 0
        free, _ = self._torch.cuda.mem_get_info(self._device)
        return int(free)

    def run(self, tensors: Tensors) -> Tensors:
        """Run a batch. Raises `InvalidRequest` for an index that its table does not have."""
        for name, limit in self._limits.items():
            _check_limit(name, tensors[name], limit)
        arrays = [tensors[name] for name in self._names]
        free = self._free
        if free is None:
            found = self._run_on_cpu(arrays)
        else:
            lane = free.get()
            try:
                found = lane.run(arrays)
            finally:
                free.put(lane)
        return {spec.name: array for spec, array in zip(self.outputs, found, strict=True)}

    def _run_on_cpu(self, arrays: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        torch = self._torch
        # The number belongs to the calling thread, and each thread has workers of its own.
        if self._threads and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        inputs = [_tensor(torch, array) for array in arrays]
        with torch.inference_mode():
            try:
                found = self._call(inputs)
            except IndexError as error:  # "index out of range in self", of a lookup
                raise InvalidRequest(
                    f"a value of the request is no index that the model has: {error}"
                ) from error
            # A model may answer its input, or a view of it: memory that the next batch is put in.
            theirs = {tensor.untyped_storage().data_ptr() for tensor in inputs}
            return [
                _array(
                    torch,
                    value.clone() if value.untyped_storage().data_ptr() in theirs else value,
                )
                for value in found
            ]

    def close(self) -> None:
        """Free the model, its lanes and what PyTorch keeps of their memory."""
        on_gpu = self._free is not None
        self._free = None
        del self._call
        if on_gpu:
            self._torch.cuda.empty_cache()


def _array(torch: Any, value: Any) -> np.ndarray[Any, Any]:
    """The tensor of the CPU as an array; bfloat16, which NumPy lacks, as float32."""
    if value.dtype == torch.bfloat16:
        value = value.float()
    array: np.ndarray[Any, Any] = value.numpy()
    return array


def _import() -> Any:
    # Threads of OpenMP that spin while they wait take the core that the event loop needs. Read once
    # by the library, so a process that has PyTorch already keeps what it has.
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ImportError as error:
        raise EngineError("the engine 'torch' is not installed.", hint=_HINT) from error
    return torch


def _device(torch: Any, wanted: str) -> Any:
    """The `torch.device` of that name. Raises `EngineError` where there is none."""
    if not wanted.startswith("cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineError(
            f"device '{wanted}' was asked for, but this PyTorch sees no GPU.",
            hint="install PyTorch's CUDA build and NVIDIA's driver, or take device 'cpu'",
        )
    index, count = int(wanted.partition(":")[2] or 0), torch.cuda.device_count()
    if index >= count:
        raise EngineError(
            f"device '{wanted}' was asked for, and there {'is' if count == 1 else 'are'} {count}.",
            hint=f"it can be cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}",
        )
    return torch.device("cuda", index)


def _lanes(
    call: program.Call, signature: archive.Signature, device: torch.device, options: EngineOptions
) -> LifoQueue[Lane]:
    from .cuda import CudaDevice

    free: LifoQueue[Lane] = LifoQueue()  # one thread alone always gets the same lane
    for _ in range(options.streams):
        lane = Lane(CudaDevice(device), call, signature, batches=options.batches)
        lane.prepare()
        free.put(lane)
    return free


def _tensor(torch: Any, array: np.ndarray[Any, Any]) -> Any:
    if not array.flags.writeable:  # views of a request's body; PyTorch warns of such memory
        array = array.copy()
    return torch.from_numpy(array)


def _check_limit(name: str, array: np.ndarray[Any, Any], limit: int) -> None:
    """On a GPU such an index would end the process's use of it, not only this run."""
    if array.size and (array.min() < 0 or array.max() >= limit):
        wrong = array[(array < 0) | (array >= limit)].flat[0]
        raise InvalidRequest(f"input '{name}' holds {wrong}, and the model takes 0 to {limit - 1}")
