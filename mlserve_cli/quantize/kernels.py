"""Which nodes really run in int8: read from the graph that ONNX Runtime makes for this machine.

A model that carries QuantizeLinear nodes is not a model that computes in int8: what ONNX Runtime
cannot fuse runs in float between conversions, slower than before.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

INT8 = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "QGemm",
        "QAttention",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
    }
)
FLOAT = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "FusedConv",
        "NhwcFusedConv",
        "MatMul",
        "FusedMatMul",
        "Gemm",
        "FusedGemm",
        "Attention",
        "MultiHeadAttention",
        "LSTM",
    }
)


@dataclass(frozen=True, slots=True)
class Kernels:
    """How many heavy nodes run as int8 kernels, how many in float, and all nodes by type."""

    int8: int
    floating: int
    nodes: dict[str, int]

    @property
    def share(self) -> float:
        """The share of the heavy nodes (convolutions and matrix products) that run in int8."""
        return self.int8 / max(self.int8 + self.floating, 1)


def read(model: Path) -> Kernels:
    """Let ONNX Runtime optimize `model` for this CPU and count what it would run."""
    import onnx
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="mlserve-kernels-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        settings = ort.SessionOptions()
        settings.log_severity_level = 4  # it warns that the file is for this machine: so it is
        settings.optimized_model_filepath = str(optimized)
        # Large weights go beside it, where they need not be read again.
        settings.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimized.data"
        )
        ort.InferenceSession(model, sess_options=settings, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized, load_external_data=False).graph
    nodes = Counter(node.op_type for node in graph.node)
    return Kernels(
        int8=sum(count for name, count in nodes.items() if name in INT8),
        floating=sum(count for name, count in nodes.items() if name in FLOAT),
        nodes=dict(sorted(nodes.items())),
    )
