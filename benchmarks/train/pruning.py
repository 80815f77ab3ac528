"""A network pruned to half its multiplications: what it loses, and whether time follows them.

    python benchmarks/train/pruning.py [--seeds 3] [--macs 0.5] [--parents FOLDER] [-- OPTIONS]

For each seed the network of samples/digits is trained anew, exported, pruned by `mlserve prune`,
and both are judged on the 1,000 digits that were held out, after the last epoch, never the best
one. The time is measured side by side through ONNX Runtime. --parents keeps the trained parents.
What stands behind `--` are options of the step, as NAME=VALUE: `-- scope=global iterations=2`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DIGITS = Path(__file__).parents[2] / "samples" / "digits"
ALLOWED_DROP_POINTS = 0.3
ALLOWED_TIME = 1.2  # of what the multiplications promise


@dataclass
class Result:
    """One seed: accuracies in percent, and ratios of the pruned network over its parent."""

    seed: int
    parent: float
    pruned: float
    macs: float
    parameters: float
    time_1: float
    time_8: float
    seconds: float

    @property
    def lost(self) -> float:
        return self.parent - self.pruned

    @property
    def against_promise(self) -> float:
        """The worst of both batch sizes: time ratio over MACs ratio."""
        return max(self.time_1, self.time_8) / self.macs


def main() -> None:
    arguments, more = sys.argv[1:], []
    if "--" in arguments:
        place = arguments.index("--")
        arguments, more = arguments[:place], arguments[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--parents", type=Path)
    parser.add_argument("--epochs", type=int, help="of the parents; else as TRAINING says")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    options = {name: _value(value) for name, value in (each.split("=", 1) for each in more)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.parents or Path(scratch)
        results = []
        for seed in range(given.seeds):
            results.append(
                measure(seed, folder, Path(scratch), given.epochs, macs=given.macs, **options)
            )
            print(line(results[-1]), file=sys.stderr, flush=True)
    if given.json:
        print(json.dumps([asdict(each) for each in results], indent=1))
        return
    print(summary(results))


def measure(seed: int, parents: Path, scratch: Path, epochs: int | None, **options: Any) -> Result:
    """Train, export, prune and judge with one seed."""
    from mlserve_cli.bench.compare import compare
    from mlserve_cli.evaluate.cases import definition_of
    from mlserve_cli.evaluate.evaluation import by_definition
    from mlserve_cli.package import step
    from mlserve_cli.package.package import Package
    from mlserve_cli.package.progress import Silent
    from mlserve_cli.prune import PruneStep

    package = parents / f"parent-{seed}"
    parent = Package.open(package) if package.is_dir() else train(seed, package, scratch, epochs)
    began = time.monotonic()
    pruned = step.run(
        PruneStep(seed=seed, **options), parent, scratch / f"pruned-{seed}", progress=Silent()
    )
    seconds = time.monotonic() - began
    definition = definition_of(parent)
    before, after = (by_definition(each, definition).value for each in (parent, pruned))
    facts = pruned.manifest.lineage[-1].parameters
    one, eight = compare(parent, pruned, batch_sizes=(1, 8))
    return Result(
        seed=seed,
        parent=before,
        pruned=after,
        macs=facts["macs"] / facts["macs_before"],
        parameters=facts["parameters"] / facts["parameters_before"],
        time_1=one.median,
        time_8=eight.median,
        seconds=seconds,
    )


def train(seed: int, package: Path, scratch: Path, epochs: int | None) -> Any:
    """A parent: the digits network trained with this seed, as a package."""
    import torch
    from safetensors.torch import save_file

    from mlserve_cli.export.export import export
    from mlserve_cli.package.definition import Definition
    from mlserve_cli.package.progress import Silent
    from mlserve_cli.training.inputs import batches
    from mlserve_cli.training.loop import train as fit
    from mlserve_cli.training.losses import task_loss
    from mlserve_cli.training.options import TrainingOptions

    folder = scratch / f"definition-{seed}"
    folder.mkdir()
    (folder / "model.py").write_bytes((DIGITS / "model.py").read_bytes())
    definition = Definition.load(folder / "model.py")
    options = TrainingOptions.of(definition, epochs=epochs)
    torch.manual_seed(seed)
    network = definition.function("architecture")()
    fit(
        network,
        batches(definition, ("image",)),
        options=options,
        loss=task_loss(definition, options),
        seed=seed,
        progress=Silent(),
    )
    save_file(network.state_dict(), folder / "weights.safetensors")
    package.parent.mkdir(parents=True, exist_ok=True)
    return export(
        str(folder / "model.py"), package, name="digits", calibration=None, progress=Silent()
    )


def line(result: Result) -> str:
    return (
        f"seed {result.seed}: {result.parent:.1f} % → {result.pruned:.1f} % "
        f"(lost {result.lost:+.1f}), MACs {result.macs:.1%}, parameters {result.parameters:.1%}, "
        f"time {result.time_1:.1%} at batch 1, {result.time_8:.1%} at batch 8, "
        f"{result.seconds:.0f} s"
    )


def summary(results: list[Result]) -> str:
    """Means with spreads, and both claims."""
    lost = [each.lost for each in results]
    promise = [each.against_promise for each in results]
    return "\n".join(
        [
            *map(line, results),
            f"lost: {spread(lost)} points; at most {ALLOWED_DROP_POINTS} is the claim: "
            + _verdict(statistics.mean(lost) <= ALLOWED_DROP_POINTS),
            f"time over what the multiplications promise: {spread(promise)}; at most "
            f"{ALLOWED_TIME} is the claim: " + _verdict(max(promise) <= ALLOWED_TIME),
        ]
    )


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} … {max(values):.2f})"


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
