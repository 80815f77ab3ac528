"""What does a small forest learn from a large one, with and without targets of its own?

    python benchmarks/train/forests.py [--seeds 3]

Three real tables: patches of photographs (river), digits and tumours (scikit-learn). A third of
each is held out. The large forest, 300 trees, learned from a fifth of the rest; the other rows come
without targets. The small one, 15 trees of depth 10, is fitted to the targets of that fifth alone,
to what the large one answers for the same rows, and to what it answers for all. Sizes are of the
ONNX files, the speed is that of ONNX Runtime beside the large forest. About three minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from mlserve_cli.export.export import export
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import steps
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.variant import Gate, make

TABLES = {
    "patches": """
    from river.datasets import ImageSegments

    patches, surfaces = zip(*ImageSegments(), strict=True)
    names = sorted(set(surfaces))
    return np.array([list(each.values()) for each in patches]), np.array(
        [names.index(each) for each in surfaces]
    )
""",
    "digits": """
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
""",
    "tumours": """
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)
""",
}

DEFINITION = """
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

SEED = {seed}
METRIC = {{"name": "accuracy", "higher_is_better": True, "unit": "points"}}


def table():{table}

def splits():
    rows, classes = table()
    rows = rows.astype(np.float32)
    rest, held_out, known, right = train_test_split(
        rows, classes, test_size=1 / 3, stratify=classes, random_state=SEED
    )
    few, more, labels, _ = train_test_split(
        rest, known, train_size=1 / 5, stratify=known, random_state=SEED
    )
    return few, labels, more, held_out, right


def model():
    few, labels, *_ = splits()
    return RandomForestClassifier(300, random_state=SEED).fit(few, labels)


def student():
    return RandomForestClassifier(15, max_depth=10)


def sample():
    return splits()[0][:64]


def training():
    few, labels, *_ = splits()
    yield few, labels


def all_rows():
    few, _, more, *_ = splits()
    yield np.concatenate([few, more])


def evaluation():
    *_, held_out, right = splits()
    yield held_out, right
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print(f"{'':<10}{'large':>14}{'targets':>14}{'answers':>14}{'all rows':>14}  size and speed")
    for table, text in TABLES.items():
        found: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as name:
            for seed in range(given.seeds):
                folder = Path(name) / str(seed)
                folder.mkdir()
                file = folder / "model.py"
                file.write_text(DEFINITION.format(seed=seed, table=text))
                large = export(str(file), folder / "large", progress=Silent())
                ways = {
                    "targets": {"alpha": 0.0},
                    "answers": {"alpha": 1.0},
                    "all rows": {"train_data": f"{file}:all_rows"},
                }
                for word, parameters in ways.items():
                    made = distilled(large, folder / word.replace(" ", "-"), seed, parameters)
                    found.setdefault(word, []).append(made.after.value)
                found.setdefault("large", []).append(made.before.value)
            size = made.package.size_bytes / large.size_bytes
            speed = ", ".join(
                f"{1 / ratio.median:.1f}× at batch {ratio.batch}" for ratio in made.ratios
            )
        cells = [
            f"{statistics.mean(found[word]):.2f} ± {statistics.stdev(found[word]):.2f}"
            for word in ("large", "targets", "answers", "all rows")
        ]
        print(f"{table:<10}" + "".join(f"{cell:>14}" for cell in cells), f" {size:.0%}, {speed}")


def distilled(large: Package, target: Path, seed: int, parameters: dict):
    return make(
        lambda rows: steps.distill(rows, seed=seed, **parameters),
        large,
        target,
        cases=Cases.of(large),
        gate=Gate(max_drop=100, allow_slower=True, seconds=0.5),
        progress=Silent(),
    )


if __name__ == "__main__":
    main()
