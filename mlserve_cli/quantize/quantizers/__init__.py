"""Who writes static int8: one interface, a table of import strings, and three that stand behind it.

Ours is the default: ONNX Runtime's writer, driven by our ranges. The others bring algorithms of
their own, as extras. Whoever wrote a model, it is brought to the form that ONNX Runtime runs
(`qdq`), and goes through the same gates.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from mlserve_cli.errors import StepError
from mlserve_cli.quantize.quantizers.quantizer import Job, Quantizer

__all__ = ["DEFAULT", "QUANTIZERS", "Job", "Quantizer", "find"]

DEFAULT = "onnxruntime"

QUANTIZERS: Mapping[str, str] = {
    "onnxruntime": "mlserve_cli.quantize.quantizers.writer:WriterQuantizer",
    "nncf": "mlserve_cli.quantize.quantizers.nncf:NncfQuantizer",
    "neural-compressor": "mlserve_cli.quantize.quantizers.pt2e:Pt2eQuantizer",
}
"""The name on the command line → `module:class`. The modules import no library of theirs."""


def find(name: str) -> Quantizer:
    """The quantizer of that name. Raises `StepError` where there is none."""
    target = QUANTIZERS.get(name)
    if target is None:
        raise StepError(f"'{name}' is no quantizer.", hint=f"it can be {', '.join(QUANTIZERS)}")
    module, _, kind = target.partition(":")
    found: Quantizer = getattr(importlib.import_module(module), kind)()
    return found
