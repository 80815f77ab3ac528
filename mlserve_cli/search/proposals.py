"""Which candidates there are, from the architecture, the machine, and what was found so far.

A generator looks at the facts and at the trials up to now, and names what it would try. It is asked
again after every wave of trials, until no generator has anything new. So a further way to make
models smaller is one more generator in the table.

The order is that of the search: what costs little to find out comes first, and what has won most
often on machines of this kind before what rarely does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlserve_cli.search import choice, networks
from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.choice import Target
from mlserve_cli.search.networks import Training
from mlserve_cli.search.trial import Trial

WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Attention", "LSTM", "GRU"})
"""Operators whose time int8 can save; a forest of trees or a lookup has none of them."""

NORMALIZED = frozenset({"LayerNormalization", "SkipLayerNormalization", "ReduceMean"})
"""What stands before the products of a transformer, and takes the scales of SmoothQuant."""

PRODUCTS = frozenset({"Gemm", "MatMul", "Attention"})

FINALISTS = 2
"""Candidates that are handed to another engine: the third best has never won there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known before anything is measured.

    operators: types of nodes in the model. quantized: it holds int8 already. has_rows: real rows
    for calibration are there. engines: that are installed here. engine: that runs the float model.
    isa: of the CPU. quantizers: beside our own, whose libraries are installed. has_module: the
    package holds its torch module. target: what is to be won. speed_up: how many times as fast the
    result must be, None where that does not matter. training: the networks that may be trained.
    """

    operators: frozenset[str]
    quantized: bool
    has_rows: bool
    engines: tuple[str, ...]
    isa: frozenset[str]
    engine: str = "onnxruntime"
    quantizers: tuple[str, ...] = ()
    has_module: bool = False
    target: Target = "latency"
    speed_up: float | None = None
    training: Training = field(default_factory=Training)


Generator = Callable[[Facts, Sequence[Trial]], Iterable[Candidate]]
"""(what is known, the trials so far) → what to try next; what was tried may be named again."""


def static(facts: Facts, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """Static int8, which differs in how ranges are found and what is done against outliers."""
    if not _is_heavy(facts) or not facts.has_rows:
        return
    yield _quantized("int8-minmax", "convolutions and products in int8, ranges of all values")
    yield _quantized("int8-percentile", "ranges without outliers", calibrator="percentile")
    yield _quantized("int8-mse", "ranges of the least squared error", calibrator="mse")
    if "Conv" in facts.operators:
        yield _quantized(
            "int8-corrected", "the mean error of each channel taken out", bias_correction=True
        )
    if facts.operators & PRODUCTS and facts.operators & NORMALIZED:
        yield _quantized("int8-smooth", "outliers of activations moved into weights", smooth=True)


def fused(facts: Facts, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """The best int8 encoders again, with attention as one operator, which ONNX Runtime alone has.

    It takes less time for short sequences, and about the same for long ones.
    """
    if facts.engine != "onnxruntime" or not {"Softmax", "MatMul"} <= facts.operators:
        return
    made = [
        trial
        for trial in trials
        if is_static(trial) and trial.state in ("passed", "inaccurate") and trial.speeds
    ]
    made = [trial for trial in made if "fuse" not in trial.steps[-1]]
    made.sort(key=lambda trial: (trial.state != "passed", choice.cost(trial, facts.target)))
    for trial in made[:FINALISTS]:
        *before, last = trial.candidate.steps
        parameters = {**last.parameters, "fuse": True}
        yield Candidate(
            name=f"{trial.name}-fused",
            steps=(*before, StepChoice(step=last.step, parameters=parameters)),
            why=f"{trial.name}, attention as one operator",
        )


def weights(facts: Facts, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """What needs no rows: products scaled while the model runs, or small weights alone."""
    if _is_heavy(facts) and facts.operators & PRODUCTS:
        yield _quantized("int8-dynamic", "products scaled while the model runs", method="dynamic")
        yield _quantized("int8-weights", "weights of 8 bits, for a small file",
                         method="int8-weights")  # fmt: skip


def narrow_floats(facts: Facts, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """bf16, where the CPU multiplies it: in OpenVINO, or in torch, which has it as well."""
    if not _is_heavy(facts) or facts.target == "size":
        return
    if not {"amx_bf16", "avx512_bf16"} & facts.isa:
        return
    if "openvino" in facts.engines and facts.engine == "onnxruntime":
        yield _quantized("bf16", "bf16 in OpenVINO", method="bf16")
    if "torch" in facts.engines and facts.has_module:
        before = () if facts.engine == "torch" else (_engine("torch"),)
        bf16 = StepChoice(step="quantize", parameters={"method": "bf16"})
        yield Candidate(name="torch-bf16", steps=(*before, bf16), why="bf16 in torch")


def engines(facts: Facts, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """The float model in other engines; then, where that worked, the best of the int8 models."""
    if facts.target == "size" or facts.engine != "onnxruntime":
        return
    if "torch" in facts.engines and facts.has_module and _is_heavy(facts):
        yield Candidate(name="torch", steps=(_engine("torch"),), why="the float model in torch")
    if "openvino" not in facts.engines:
        return
    alone = Candidate(
        name="openvino", steps=(_engine("openvino"),), why="the float model in OpenVINO"
    )
    yield alone
    tried = {trial.key: trial for trial in trials}
    if alone.key not in tried or tried[alone.key].state == "failed":
        return
    passed = [
        trial
        for trial in trials
        if trial.state == "passed" and trial.steps and trial.engine == "onnxruntime"
    ]
    passed.sort(key=lambda trial: choice.cost(trial, facts.target))
    for trial in passed[:FINALISTS]:
        yield trial.candidate.then(
            f"{trial.name}-openvino", _engine("openvino"), why=f"{trial.name} in OpenVINO"
        )


def quantizers(facts: Facts, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """Other tools' static int8, where ours loses too much: they are as fast, and slow to run."""
    if not _is_heavy(facts) or not facts.has_rows:
        return
    ours = [trial for trial in trials if is_static(trial)]
    if not ours or any(trial.state == "passed" for trial in ours):
        return
    if not any(trial.state == "inaccurate" for trial in ours):
        return
    if "nncf" in facts.quantizers:
        yield _quantized(
            "int8-nncf", "NNCF's ranges and bias correction", quantizer="nncf", bias_correction=True
        )
    if "neural-compressor" in facts.quantizers and facts.has_module:
        yield _quantized(
            "int8-neural-compressor", "Neural Compressor's ranges", quantizer="neural-compressor"
        )


def smaller(facts: Facts, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """Networks that are pruned or distilled, in float first, then in the precisions that won.

    One training a wave: it is the last where what was asked for is reached.
    """
    made = {trial.key: trial for trial in trials}
    won = networks.winners(trials, facts.target)
    for network in facts.training.networks:
        alone = made.get(network.candidate.key)
        if alone is None or alone.state != "passed":
            continue  # what loses too much in float does not lose less in int8
        for trial in won:
            yield Candidate(
                name=f"{network.name}-{trial.name}",
                steps=(*network.steps, *trial.candidate.steps),
                why=f"{network.why}; {trial.why or trial.name}",
            )
    if networks.reached(trials, facts.speed_up):
        return
    for network in networks.plan(facts.training, trials, facts.speed_up).fitting[:1]:
        yield network.candidate


GENERATORS: tuple[Generator, ...] = (
    narrow_floats,
    static,
    weights,
    fused,
    engines,
    quantizers,
    smaller,
)


def propose(
    facts: Facts,
    trials: Sequence[Trial] = (),
    *,
    generators: Sequence[Generator] = GENERATORS,
) -> list[Candidate]:
    """What to try next beside the float model; empty where nothing could win, or all is tried."""
    if facts.quantized:
        return []
    tried = {trial.key for trial in trials}
    found: dict[str, Candidate] = {}
    for generator in generators:
        for candidate in generator(facts, trials):
            if candidate.key not in tried:
                found.setdefault(candidate.key, candidate)
    return list(found.values())


def is_static(trial: Trial) -> bool:
    """Whether its last step is static int8: only that has nodes to be left in float one by one."""
    last = trial.steps[-1] if trial.steps else {}
    return last.get("step") == "quantize" and last.get("method", "static") == "static"


def _is_heavy(facts: Facts) -> bool:
    return bool(facts.operators & WITH_WEIGHTS)


def _engine(name: str) -> StepChoice:
    return StepChoice(step="engine", parameters={"engine": name})


def _quantized(name: str, why: str, **parameters: Any) -> Candidate:
    chosen = StepChoice(step="quantize", parameters={"method": "static", **parameters})
    return Candidate(name=name, steps=(chosen,), why=why)
