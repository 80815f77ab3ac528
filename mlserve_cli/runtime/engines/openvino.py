"""OpenVINO inside ONNX Runtime: its plugin execution provider, with the precision set explicitly.

The provider runs float32 models in bf16 by default where the CPU has it; here they run in what the
options say. It comes from the package `onnxruntime-ep-openvino`, which installs beside
onnxruntime (never `onnxruntime-openvino`, which overwrites it).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ..errors import EngineError
from .engine import EngineOptions
from .onnxruntime import OnnxRuntimeEngine

_LIBRARY = "mlserve-openvino"
_registered = False


class OpenVinoEngine(OnnxRuntimeEngine):
    """An ONNX Runtime session whose nodes run in OpenVINO's CPU plugin."""

    @staticmethod
    def devices(model: Path) -> tuple[str, ...]:
        """The CPU alone is examined."""
        return ("cpu",)

    def _configure(self, ort: Any, settings: Any, options: EngineOptions) -> None:
        _register(ort)
        devices = [
            device
            for device in ort.get_ep_devices()
            if device.ep_name == "OpenVINOExecutionProvider"
            and device.device.type == ort.OrtHardwareDeviceType.CPU
        ]
        if not devices:
            raise EngineError("OpenVINO found no CPU device that it can run on.")
        cpu: dict[str, str] = {
            "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bf16" else "f32",
            "NUM_STREAMS": str(options.streams),
        }
        if options.threads:
            cpu["INFERENCE_NUM_THREADS"] = str(options.threads * options.streams)
        # The provider takes its settings only as a file, read while the session is made.
        self._folder = tempfile.TemporaryDirectory(prefix="mlserve-openvino-")
        config = Path(self._folder.name) / "config.json"
        config.write_text(json.dumps({"CPU": cpu}))
        settings.add_provider_for_devices([devices[0]], {"load_config": str(config)})

    def _providers(self, ort: Any, options: EngineOptions) -> dict[str, Any]:
        return {}  # chosen in the session's settings

    def close(self) -> None:
        """Free the session and its settings file."""
        super().close()
        self._folder.cleanup()


def _register(ort: Any) -> None:
    global _registered
    if _registered:
        return
    try:
        import onnxruntime_ep_openvino as plugin
    except ImportError as error:
        raise EngineError(
            "the engine 'openvino' is not installed.",
            hint="pip install onnxruntime-ep-openvino",
        ) from error
    ort.register_execution_provider_library(_LIBRARY, plugin.get_library_path())
    _registered = True
