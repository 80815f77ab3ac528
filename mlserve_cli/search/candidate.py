"""A way to make and run a model that is worth trying, and which ones there are.

The order is that of the search: what costs little to find out comes first, and what has won most
often on machines of this kind before what rarely does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "LSTM", "GRU"})
"""Operators whose time int8 can save; a forest of trees or a lookup has none of them."""

CALIBRATORS = ("minmax",)
"""Ways to find the ranges of static int8, the quickest first."""

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
    for calibration are there. engines: that run here. isa: of the CPU. row_by_row: the float model
    is served one row at a time, so nothing is lost by a candidate that is, too.
    """

    operators: frozenset[str]
    quantized: bool
    has_rows: bool
    engines: tuple[str, ...]
    isa: frozenset[str]
    row_by_row: bool = False


def propose(facts: Facts) -> list[Candidate]:
    """What to try beside the float model; empty where nothing could win."""
    found: list[Candidate] = []
    heavy = facts.operators & WITH_WEIGHTS
    if heavy and not facts.quantized:
        if facts.has_rows:
            found += [
                Candidate(
                    name=f"int8-{calibrator}",
                    steps=(_static(calibrator),),
                    why="convolutions and products in int8, ranges by " + calibrator,
                )
                for calibrator in CALIBRATORS
            ]
        if facts.operators & PRODUCTS:
            found.append(
                Candidate(
                    name="int8-dynamic",
                    steps=(StepChoice(step="quantize", parameters={"method": "dynamic"}),),
                    why="products in int8, scaled while the model runs; one row at a time",
                )
            )
    if "openvino" in facts.engines:
        found += _with_openvino(found, bf16=bool({"amx_bf16", "avx512_bf16"} & facts.isa))
    return found


def _static(calibrator: str) -> StepChoice:
    return StepChoice(step="quantize", parameters={"method": "static", "calibrator": calibrator})


def _with_openvino(found: Sequence[Candidate], *, bf16: bool) -> list[Candidate]:
    """The float model, and the first static int8 one, in OpenVINO's kernels."""
    engine = StepChoice(step="engine", parameters={"engine": "openvino", "precision": "fp32"})
    made = [Candidate(name="openvino", steps=(engine,), why="the float model in OpenVINO")]
    if bf16:
        half = StepChoice(step="engine", parameters={"engine": "openvino", "precision": "bf16"})
        made.insert(0, Candidate(name="openvino-bf16", steps=(half,), why="bf16 in OpenVINO"))
    static = next((each for each in found if each.name.startswith("int8-m")), None)
    if static is not None:
        made.append(
            Candidate(
                name=f"openvino-{static.name}",
                steps=(*static.steps, engine),
                why="int8 in OpenVINO's kernels",
            )
        )
    return made
