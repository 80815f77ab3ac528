"""Names of variants: short words, the newest step first."""

from __future__ import annotations

import re


def prefixed(word: str, variant: str) -> str:
    """`pruned`, `fp32` → `pruned-fp32`, which becomes `pruned2-fp32` the next time."""
    again = re.fullmatch(rf"{word}(\d*)-(.+)", variant)
    if again:
        return f"{word}{int(again[1] or 1) + 1}-{again[2]}"
    return f"{word}-{variant}"
