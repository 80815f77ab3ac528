"""Pruning in several steps with training between them, and how much of both falls to each."""

from __future__ import annotations


def fractions(steps: int) -> list[float]:
    """The exponent of each step: what is kept after step k is (kept at the end) ** fractions[k].

    The same share of what is left goes each time, so that no step hurts more than another.
    """
    return [(step + 1) / steps for step in range(steps)]


def epochs(total: int, steps: int) -> list[int]:
    """Epochs after each step: half of them after the last, the others in equal parts, at least 1.

    The sum is `total`, or `steps` where there are fewer epochs than steps.
    """
    if steps == 1:
        return [total]
    last = max(1, -(-total // 2))
    others = steps - 1
    each, more = divmod(max(total - last, others), others)
    found = [each + (1 if step < more else 0) for step in range(others)]
    return [*found, last]
