"""What static and dynamic quantization leave in a draft, and the claim that both make."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from mlserve_cli.errors import StepError
from mlserve_cli.graph import kernels
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.step import Change
from mlserve_cli.quantize import naming
from mlserve_cli.runtime.manifest import Manifest

TOLERANCE = 1e-2
"""Golden predictions may differ by this, relative to the output's range. An int8 tensor has 255
steps, 0.4 % of its range each; kernels of another CPU round the float32 product that falls between
two steps differently, and where that happens in two layers the answer moves by two steps."""

ISA = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_int8",
    "neon_dotprod",
    "neon_i8mm",
)
"""The instruction sets that decide how int8 products are summed: without VNNI, u8 by s8 pairs are
added in 16 bits on x86 and saturate, which is another model."""


def change(
    parent: Package,
    precision: str,
    parameters: Mapping[str, Any],
    *,
    sets: tuple[str, ...] | None = None,
    libraries: tuple[str, ...] = (),
) -> Change:
    """What the manifest of the int8 model says differently; `precision` names the variant.

    sets: the instruction sets that it holds on, if they are known better than by this CPU's own.
    libraries: distributions that shaped it beside onnx and onnxruntime.
    """
    return Change(
        variant=naming.variant(parent.manifest.variant, precision),
        parameters=dict(parameters),
        libraries=("onnx", "onnxruntime", *libraries),
        manifest={
            # A NaN spoils the scale that a whole tensor shares, or turns into a plausible number.
            "finite_inputs": True,
            "tolerance": TOLERANCE,
            "instruction_sets": instruction_sets() if sets is None else sets,
        },
    )


def copy_source(parent: Package, draft: Draft) -> None:
    """Take the float source along: further training starts from it, never from int8."""
    if parent.source.is_dir():
        shutil.copytree(parent.source, draft.source, dirs_exist_ok=True)


def instruction_sets() -> tuple[str, ...]:
    """Those of this CPU that int8 results depend on."""
    from mlserve_cli.runtime.hardware import detect

    return tuple(name for name in detect().isa if name in ISA)


def ensure_int8(draft: Draft, manifest: Manifest) -> None:
    """Look at what ONNX Runtime would run here, note it as evidence, and refuse a claim of int8
    for a model of which nothing runs in int8."""
    model = draft.serve / manifest.model
    found = kernels.read(model)
    Package(draft.path, manifest).add_evidence(
        "int8-kernels",
        {
            "int8_nodes": found.int8,
            "float_nodes": found.floating,
            "int8_share": round(found.share, 4),
            "nodes": found.nodes,
        },
    )
    if not found.int8:
        raise StepError(
            "ONNX Runtime would run no convolution and no matrix product of the result in int8: "
            f"it would run {_listed(found.nodes)}.",
            hint="this model gains nothing from int8 on this machine",
        )


def _listed(nodes: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in nodes.items())
