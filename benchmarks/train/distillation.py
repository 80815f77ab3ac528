"""Does a student of a tenth keep what an encoder knows, and is it worth a teacher?

    python samples/sentences/train.py
    mlserve export samples/sentences/model.py -o packages/sentences
    python benchmarks/train/distillation.py packages/sentences [--seeds 0 1 2]

The student of samples/sentences is trained twice for each seed: on what the encoder answers to all
glosses, none of which comes with its class, and from scratch on the classes of those that the
encoder's own head was trained on. Then the first is quantized (static int8). All are judged after
their last epoch on the held-out glosses, and timed beside the encoder. About five minutes a seed on
two cores, and two more for the encoder's answers, which are kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from mlserve_cli.bench.compare import compare
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import steps
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.variant import Gate, Verdict, make

SAMPLE = Path(__file__).parents[2] / "samples" / "sentences"
ANYTHING = Gate(max_drop=100, allow_slower=True, seconds=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("package", type=Path, help="of samples/sentences")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of distilling; else as the sample says")
    parser.add_argument("--scratch-epochs", type=int, default=12, help="more were no better")
    given = parser.parse_args()
    teacher = Package.open(given.package)
    kept: dict[str, list[float]] = {"distilled": [], "distilled, int8": [], "from scratch": []}
    with tempfile.TemporaryDirectory() as name:
        for seed in given.seeds:
            folder = Path(name)
            student = variant(
                teacher,
                folder / f"student-{seed}",
                "distill",
                teacher=str(given.package),
                seed=seed,
                epochs=given.epochs,
            )
            scratch = variant(
                teacher,
                folder / f"scratch-{seed}",
                "distill",
                alpha=0.0,
                train_data=f"{__file__}:labelled",
                seed=seed,
                epochs=given.scratch_epochs,
            )
            small = variant(student.package, folder / f"int8-{seed}", "quantize")
            before = student.before.value
            for word, made in zip(kept, (student, small, scratch), strict=True):
                kept[word].append(made.after.value)
            line = ", ".join(f"{word} {values[-1]:.2f}" for word, values in kept.items())
            print(f"seed {seed}: encoder {before:.2f}, {line}", flush=True)
        facts = student.package.manifest.lineage[-1].parameters
        print(
            f"\nparameters: {facts['parameters_before']:,} → {facts['parameters']:,} "
            f"(1/{facts['parameters_before'] / facts['parameters']:.1f})"
        )
        print(f"{'':<18}accuracy (mean ± spread)   of the encoder's")
        for word, values in kept.items():
            mean = statistics.mean(values)
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{word:<18}{mean:6.2f} ± {spread:.2f}{'':<14}{mean / before:.1%}")
        for word, made in (("distilled", student), ("distilled, int8", small)):
            for ratio in compare(
                teacher, made.package, batch_sizes=(1, 8), seconds=4, progress=Silent()
            ):
                print(f"{word}: {ratio.sentence()}")


def variant(parent: Package, target: Path, step: str, **parameters: object) -> Verdict:
    build = getattr(steps, step)
    return make(
        lambda rows: build(rows, **parameters),
        parent,
        target,
        cases=Cases.of(parent),
        gate=ANYTHING,
        progress=Silent(),
    )


@cache
def chosen() -> list[tuple[str, int]]:
    """The glosses that train.py reads by default, with their classes."""
    sys.path.insert(0, str(SAMPLE))
    import train

    return train.chosen(300)


def labelled():
    """Batches of them: token ids with their mask, and classes."""
    rows = chosen()
    import model

    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        yield model.tokens([text for text, _ in part]), np.array([label for _, label in part])


if __name__ == "__main__":
    main()
