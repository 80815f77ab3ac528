"""The CPU that a model is quantized for: its form, its bits, and where the result holds.

u8 by s8 is exact on x86 with VNNI, and saturates without (see `saturation`). A package says which
instruction sets its accuracy holds on; the server warns on any other.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from mlserve_cli.quantize import result
from mlserve_cli.quantize.choices import Choices, Form
from mlserve_cli.quantize.saturation import Saturation

Isa = Literal["this", "vnni", "avx2", "arm"]
Reduce = Literal["auto", "on", "off"]

VNNI = ("avx512_vnni", "avx_vnni")
"""Either adds four products in 32 bits."""

ANY_VNNI = "|".join(VNNI)
"""As it stands in a manifest: one of them is enough."""


def form(isa: Isa) -> Form:
    """Of activations and weights: ARM multiplies signed by signed."""
    arm = isa == "arm" or (isa == "this" and not _is_x86())
    return "s8s8" if arm else "u8s8"


def reduces(wish: Reduce, isa: Isa) -> bool:
    """Whether weights get seven bits: where VNNI is not certain, unless told otherwise."""
    if wish != "auto":
        return wish == "on"
    if isa == "this":
        return _is_x86() and not any(name in _isa() for name in VNNI)
    return isa == "avx2"


def proven(choices: Choices, found: Sequence[Saturation]) -> tuple[str, ...]:
    """The instruction sets for the manifest.

    An entry "a|b" is met by either. Where nothing can saturate, sums are exact on any x86 with
    AVX2, as they are with VNNI; where something can, VNNI is what makes them so.
    """
    mine = _isa()
    if choices.form != "u8s8" or not _is_x86():
        return result.instruction_sets()
    if not any(item.possible for item in found):
        return ("avx2",)
    if any(name in mine for name in VNNI):
        return (ANY_VNNI,)
    return ("avx2",)  # it saturates here, and that is how it was measured


def evidence(choices: Choices, found: Sequence[Saturation]) -> dict[str, Any]:
    """What the analysis says, the worst node first."""
    worst = sorted(found, key=lambda item: (item.share, item.possible), reverse=True)
    return {
        "summary": _summary(choices, worst),
        "form": choices.form,
        "nodes": [
            {"node": item.node, "possible": item.possible, "share": round(item.share, 6)}
            for item in worst
            if item.possible
        ],
    }


def _summary(choices: Choices, worst: Sequence[Saturation]) -> str:
    if choices.form != "u8s8":
        return "signed by signed: no unsigned product that could saturate"
    risky = [item for item in worst if item.possible]
    if not risky:
        return "no sum can saturate: the answers are the same on x86 with and without VNNI"
    return (
        f"on x86 without VNNI sums of {len(risky)} of {len(worst)} nodes can saturate; on real "
        f"rows {risky[0].share:.2%} of the pairs of '{risky[0].node}' do, and there --reduce-range "
        "on is safe"
    )


def _isa() -> Iterable[str]:
    from mlserve_cli.runtime.hardware import detect

    return detect().isa


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
