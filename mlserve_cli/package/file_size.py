"""How large a file is, for a person: megabytes, and what is too small to be told in them."""

from __future__ import annotations

SMALL = 10_000
"""Bytes below which two decimals of a megabyte say nothing any more."""


def text(count: int) -> str:
    """44.70 MB, 0.09 MB, 4.1 kB, 512 bytes."""
    if count >= SMALL:
        return f"{count / 1e6:.2f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1000 else f"{count} bytes"


def megabytes(count: int) -> str:
    """For a column of megabytes: 44.70, 0.09, 0.0041."""
    return f"{count / 1e6:.2f}" if count >= SMALL else f"{count / 1e6:.2g}"
