"""How a quantized variant is called after its parent."""

from __future__ import annotations

FLOATS = ("fp32", "fp16", "bf16")


def variant(parent: str, precision: str) -> str:
    """The parent's variant with its precision replaced: "pruned-fp32" → "pruned-int8-static"."""
    for old in FLOATS:
        if parent == old:
            return precision
        if parent.endswith("-" + old):
            return parent.removesuffix(old) + precision
    return f"{parent}-{precision}"
