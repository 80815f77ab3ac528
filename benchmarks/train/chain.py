"""Prune, distill, quantize: how fast the wide digits network becomes, and what it keeps.

    python samples/digits/train.py wide.py
    mlserve export samples/digits/wide.py -o packages/digits-wide
    python benchmarks/train/chain.py packages/digits-wide [--seeds 0 1 2] [--keep FOLDER]

For each seed the network is pruned (`mlserve prune --macs`, an epoch of recovery), learns from what
it answered itself before it was pruned (`mlserve distill --student`, without a label), and becomes
static int8. Beside it student() of the definition, the same network as the pruned one but with
random weights, learns from all labels, and from 500 of them, in as many steps. All are judged on
the 1,000 held-out digits after their last epoch, never the best one; then all are timed beside the
parent, in turns, through ONNX Runtime with a thread for each. --keep keeps the packages: a seed
that is there is judged and timed again, not trained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlserve_cli.bench.compare import compare
from mlserve_cli.evaluate.cases import definition_of
from mlserve_cli.evaluate.evaluation import by_definition
from mlserve_cli.package import step
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import steps
from mlserve_cli.pipeline.cases import Cases

DIGITS = Path(__file__).parents[2] / "samples" / "digits"
VIEWS = 8
"""Of each training digit, drawn once: what the parent answers for them is asked once and kept."""
FEW = 500
ROUNDS = 1
"""Times that the views are gone through; from scratch it is VIEWS times as many epochs, and the
one that pruning recovers in."""
ALLOWED_LOSS, WANTED_SPEED = 1.0, 20.0

PRUNED, DISTILLED, INT8 = "pruned, one epoch of recovery", "then distilled", "then static int8"
SCRATCH, SCRATCH_INT8 = "from scratch, all labels", "from scratch, static int8"
FEWER = f"from scratch, {FEW} of the labels"


@dataclass
class Result:
    """One seed: accuracies in percent by variant, and times over the parent's by batch size."""

    seed: int
    parent: float
    accuracy: dict[str, float]
    macs: float
    parameters: int
    times: dict[str, dict[int, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path, help="of samples/digits/wide.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--macs", type=float, default=0.065, help="the share that pruning keeps")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="over the views of each digit")
    parser.add_argument("--keep", type=Path, help="a folder for the packages")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing; 0 for none")
    parser.add_argument("--threads", type=int, default=1, help="of each run; 0 for all cores")
    parser.add_argument(
        "--cpu-time", action="store_true", help="time CPUs: where other work goes on beside"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    parent = Package.open(given.package)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for seed in given.seeds:
            made = chain(parent, folder, seed, macs=given.macs, rounds=given.rounds)
            results.append(judge(parent, made, seed, given))
            print(json.dumps(asdict(results[-1])), file=sys.stderr, flush=True)
    print(json.dumps([asdict(each) for each in results]) if given.json else summary(results))


def chain(
    parent: Package, folder: Path, seed: int, *, macs: float, rounds: int
) -> dict[str, Package]:
    """The packages of a seed by what they are, each made unless it is in the folder."""
    views, few = f"{__file__}:views", f"{__file__}:few"
    epochs = 1 + VIEWS * rounds

    def made(name: str, start: Package, kind: str, **parameters: Any) -> Package:
        target = folder / f"{name}-{seed}"
        if target.is_dir():
            return Package.open(target)
        rows = Cases.of(parent).calibration(start) if kind == "quantize" else None
        build = getattr(steps, kind)
        return step.run(build(rows, **parameters), start, target, progress=Silent())

    pruned = made("pruned", parent, "prune", macs=macs, epochs=1, recover="targets", seed=seed)
    _check_same(parent, pruned)
    distilled = made(
        "distilled",
        parent,
        "distill",
        teacher=str(parent.path),
        student=pruned.path,
        train_data=views,
        epochs=rounds,
        seed=seed,
    )
    small = made("int8", distilled, "quantize")
    scratch = made("scratch", parent, "distill", alpha=0.0, epochs=epochs, seed=seed)
    fewer = made("few", parent, "distill", alpha=0.0, train_data=few, epochs=epochs, seed=seed)
    return {
        PRUNED: pruned,
        DISTILLED: distilled,
        INT8: small,
        SCRATCH: scratch,
        SCRATCH_INT8: made("scratch-int8", scratch, "quantize"),
        FEWER: fewer,
    }


def judge(
    parent: Package, made: dict[str, Package], seed: int, given: argparse.Namespace
) -> Result:
    """Accuracies of all, and times of those that another step made another graph of."""
    definition = definition_of(parent)
    facts = made[PRUNED].manifest.lineage[-1].parameters
    return Result(
        seed=seed,
        parent=by_definition(parent, definition).value,
        accuracy={key: by_definition(each, definition).value for key, each in made.items()},
        macs=facts["macs"] / facts["macs_before"],
        parameters=facts["parameters"],
        times={
            key: {
                ratio.batch: ratio.median
                for ratio in compare(
                    parent,
                    made[key],
                    seconds=given.seconds,
                    threads=given.threads,
                    clock=time.process_time_ns if given.cpu_time else time.perf_counter_ns,
                )
            }
            for key in (DISTILLED, INT8)
            if given.seconds
        },
    )


def _check_same(parent: Package, pruned: Package) -> None:
    """End unless student() has the shapes that pruning left: then nothing could be compared."""
    module = definition_of(parent).function("student")()
    has = sum(parameter.numel() for parameter in module.parameters())
    left = pruned.manifest.lineage[-1].parameters["parameters"]
    if has != left:
        sys.exit(f"pruning left {left:,} parameters and student() has {has:,}: other networks")


def views() -> Iterator[Any]:
    """The training digits VIEWS times, turned and moved as by the same seed, without labels."""
    model, torch = _digits()
    images, _ = model.splits()["train"]
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    drawn = [model.jitter(images) for _ in range(VIEWS)]
    torch.random.set_rng_state(state)
    for view in drawn:
        yield from view.split(100)


def few() -> Iterator[Any]:
    """As many rows as an epoch of training(), of the first 500 digits alone, with their labels."""
    model, torch = _digits()
    images, classes = model.splits()["train"]
    for rows in (torch.randperm(len(images)) % FEW).split(100):
        yield model.jitter(images[rows]), classes[rows]


def _digits() -> tuple[Any, Any]:
    import torch

    sys.path.insert(0, str(DIGITS))
    import model

    return model, torch


def summary(results: list[Result]) -> str:
    """A row a variant, and both claims."""
    first = results[0]
    lines = [
        f"parent: {first.parent:.1f} %; pruned to {first.macs:.1%} of the multiplications, "
        f"{first.parameters:,} parameters\n",
        f"{'':<32}accuracy (mean ± spread)   faster at batch 1   at batch 8",
    ]
    for key in first.accuracy:
        values = [each.accuracy[key] for each in results]
        times = [each.times[key] for each in results if key in each.times]
        speeds = "".join(f"{_range([1 / t[b] for t in times]):>18}" for b in (1, 8) if times)
        lines.append(f"{key:<32}{statistics.mean(values):6.2f} ± {_spread(values):.2f}{speeds}")
    lost = [each.parent - each.accuracy[INT8] for each in results]
    ahead = _ahead(results, SCRATCH_INT8)
    ahead_of_few = _ahead(results, FEWER)
    slowest = min((1 / t for each in results for t in each.times.get(INT8, {}).values()), default=0)
    claim = f"{WANTED_SPEED:.0f} is the claim"
    lines += [
        "",
        f"lost: {statistics.mean(lost):.2f} points (worst {max(lost):.1f}); at most "
        f"{ALLOWED_LOSS:.0f} is the claim",
        f"slowest of all batches and seeds: {slowest:.1f}× as fast; {claim}",
        f"better than from scratch, both int8, seed by seed: {ahead}; on {FEW} labels alone, in "
        f"float: {ahead_of_few}",
    ]
    return "\n".join(lines)


def _ahead(results: list[Result], other: str) -> str:
    return ", ".join(f"{each.accuracy[INT8] - each.accuracy[other]:+.1f}" for each in results)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _range(values: list[float]) -> str:
    return f"{min(values):.1f} … {max(values):.1f}×"


if __name__ == "__main__":
    main()
