"""How a quantized variant is called after its parent."""

from __future__ import annotations

FLOATS = ("fp32", "fp16", "bf16")


def variant(parent: str, precision: str) -> str:
    """The parent's variant with its precision replaced: "pruned-fp32" → "pruned-int8-static"."""
    parts = parent.split("-")
    for index in reversed(range(len(parts))):
        if parts[index] in FLOATS:
            return "-".join([*parts[:index], precision, *parts[index + 1 :]])
    return f"{parent}-{precision}"
