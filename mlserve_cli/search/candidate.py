"""A way to make and run a model that is worth trying, and which ones there are.

The order is that of the search: what costs little to find out comes first, and what has won most
often on machines of this kind before what rarely does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "LSTM", "GRU"})
"""Operators whose time int8 can save; a forest of trees or a lookup has none of them."""

NORMALIZED = frozenset({"LayerNormalization", "SkipLayerNormalization", "ReduceMean"})
"""What stands before the products of a transformer, and takes the scales of SmoothQuant."""

PRODUCTS = frozenset({"Gemm", "MatMul", "Attention"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChoice:
    """A step by its name in a recipe, with its parameters: plain values, as TOML holds them."""

    step: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As a recipe writes it down."""
        return {"step": self.step, **self.parameters}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The steps that make a variant of the float package, in order; none for itself.

    why: a short phrase for the report, on what speaks for it.
    """

    name: str
    steps: tuple[StepChoice, ...] = ()
    why: str = ""

    @property
    def key(self) -> str:
        """What two candidates share only if they make the same: the canonical text of the steps."""
        return json.dumps([step.document() for step in self.steps], sort_keys=True)

    def excluding(self, nodes: Sequence[str]) -> Candidate:
        """The same with these nodes left in float, in its last step."""
        *before, last = self.steps
        parameters = {**last.parameters, "exclude": sorted(nodes)}
        changed = StepChoice(step=last.step, parameters=parameters)
        return Candidate(
            name=f"{self.name}-mixed", steps=(*before, changed), why=f"{len(nodes)} left in float"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known before anything is measured.

    operators: types of nodes in the model. quantized: it holds int8 already. has_rows: real rows
    for calibration are there. engines: that run here. isa: of the CPU.
    """

    operators: frozenset[str]
    quantized: bool
    has_rows: bool
    engines: tuple[str, ...]
    isa: frozenset[str]


def propose(facts: Facts) -> list[Candidate]:
    """What to try beside the float model; empty where nothing could win."""
    heavy = facts.operators & WITH_WEIGHTS
    if not heavy or facts.quantized:
        return []
    found = [*_static(facts)] if facts.has_rows else []
    if facts.operators & PRODUCTS:
        found.append(
            _quantized("int8-dynamic", "products scaled while the model runs", method="dynamic")
        )
        found.append(
            _quantized("int8-weights", "weights of 8 bits, for a small file", method="int8-weights")
        )
    if "openvino" in facts.engines and {"amx_bf16", "avx512_bf16"} & facts.isa:
        found.insert(0, _quantized("bf16", "bf16 in OpenVINO", method="bf16"))
    return found


def _static(facts: Facts) -> Iterator[Candidate]:
    """Static int8, which differs in how ranges are found and what is done against outliers."""
    yield _quantized("int8-minmax", "convolutions and products in int8, ranges of all values")
    yield _quantized("int8-percentile", "ranges without outliers", calibrator="percentile")
    yield _quantized("int8-mse", "ranges of the least squared error", calibrator="mse")
    if "Conv" in facts.operators:
        yield _quantized(
            "int8-corrected", "the mean error of each channel taken out", bias_correction=True
        )
    if facts.operators & PRODUCTS and facts.operators & NORMALIZED:
        yield _quantized("int8-smooth", "outliers of activations moved into weights", smooth=True)


def _quantized(name: str, why: str, **parameters: Any) -> Candidate:
    choice = StepChoice(step="quantize", parameters={"method": "static", **parameters})
    return Candidate(name=name, steps=(choice,), why=why)
