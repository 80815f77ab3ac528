"""Which nodes really run in int8: read from the graph that ONNX Runtime makes for this machine.

A model that carries QuantizeLinear nodes is not a model that computes in int8: what ONNX Runtime
cannot fuse runs in float between conversions, slower than before.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve_cli.graph.session import settings as session_settings

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

    with tempfile.TemporaryDirectory(prefix="mlserve-kernels-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        session(model, optimized=optimized)
        graph = onnx.load(optimized, load_external_data=False).graph
    nodes = Counter(node.op_type for node in graph.node)
    return Kernels(
        int8=sum(count for name, count in nodes.items() if name in INT8),
        floating=sum(count for name, count in nodes.items() if name in FLOAT),
        nodes=dict(sorted(nodes.items())),
    )


def session(model: Path, *, optimized: Path, profile: Path | None = None, threads: int = 0) -> Any:
    """A session of ONNX Runtime that writes down the graph it will run, as it optimized it.

    profile: the beginning of the name of a file with the time of every node, which
    `end_profiling()` finishes. threads: 0 takes ONNX Runtime's own choice.
    """
    import onnxruntime as ort

    settings = session_settings()
    settings.intra_op_num_threads = threads
    settings.optimized_model_filepath = str(optimized)
    # Large weights go beside it, where they need not be read again.
    settings.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "optimized.data"
    )
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile)
    return ort.InferenceSession(model, sess_options=settings, providers=["CPUExecutionProvider"])
