"""How a step runs a model that it looks into: no output, and no thread that spins."""

from __future__ import annotations

from typing import Any


def settings(*, optimized: bool = True) -> Any:
    """Settings of a session of ONNX Runtime on the CPU, for a step's own work.

    A thread that spins while it waits wins microseconds on an idle machine, and where other work
    goes on beside it takes the core from it: small models then run several times slower.
    optimized: False keeps every node as it is written.
    """
    import onnxruntime as ort

    made = ort.SessionOptions()
    made.log_severity_level = 4  # fatal: the rest is raised as well
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return made
