"""How fast are trees in ONNX Runtime, beside the library that grew them? One thread each.

    python benchmarks/export/trees.py            # a minute; needs the extra boosting and river

Every model learns the 2,310 patches of river's ImageSegments (18 measures, 7 classes): 200 rounds
of trees of up to 16 leaves. It is exported to a package, whose engine is then timed against the
library's own predict_proba on the same float32 rows: interleaved, in rounds, the median of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mlserve_cli.export import boosting, conversion
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import EngineOptions

SIZES = (1, 1000)


def data() -> tuple[np.ndarray, np.ndarray]:
    from river.datasets import ImageSegments

    patches, surfaces = zip(*ImageSegments(), strict=True)
    rows = np.array([list(patch.values()) for patch in patches], np.float32)
    return rows, np.unique(surfaces, return_inverse=True)[1]


def models(rounds: int) -> dict[str, Any]:
    from catboost import CatBoostClassifier
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from xgboost import XGBClassifier

    return {
        "XGBoost": XGBClassifier(n_estimators=rounds, max_depth=4, n_jobs=1),
        "LightGBM": LGBMClassifier(n_estimators=rounds, num_leaves=16, n_jobs=1, verbose=-1),
        "CatBoost": CatBoostClassifier(
            iterations=rounds, depth=4, thread_count=1, verbose=0, allow_writing_files=False
        ),
        "scikit-learn, histogram boosting": HistGradientBoostingClassifier(
            max_iter=rounds, max_leaf_nodes=16, early_stopping=False
        ),
        "scikit-learn, random forest": RandomForestClassifier(rounds, n_jobs=1),
    }


def timed(call: Callable[[], Any], seconds: float) -> float:
    """Seconds a call, over about `seconds`."""
    count = 0
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not count:
        call()
        count += 1
    return elapsed / count


def compare(model: Any, rows: np.ndarray, folder: Path, rounds: int) -> list[str]:
    written = conversion.convert(boosting.estimator(model), {"input": rows})
    path = folder / "model.onnx"
    conversion.save(written, path, ["label", "probabilities"])
    engine = engines.load("onnxruntime", path, EngineOptions(threads=1))
    cells = []
    predict = partial(model.predict_proba)
    if type(model).__name__ == "CatBoostClassifier":
        predict = partial(model.predict_proba, thread_count=1)
    try:
        for size in SIZES:
            batch = rows[:size]
            sides = (partial(predict, batch), partial(engine.run, {"input": batch}))
            np.testing.assert_allclose(sides[0](), sides[1]()["probabilities"], atol=1e-5)
            times: list[list[float]] = [[], []]
            for _ in range(rounds):
                for side, found in zip(sides, times, strict=True):
                    found.append(timed(side, 0.2))
            own, onnx = map(statistics.median, times)
            cells += [f"{own * 1e3:.3g}", f"{onnx * 1e3:.3g}", f"{own / onnx:.2g}×"]
    finally:
        engine.close()
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=int, default=200, help="rounds of boosting")
    parser.add_argument("--rounds", type=int, default=5, help="of measuring")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries, about each other's next versions
    rows, classes = data()
    threadpool_limits(1)  # histogram boosting takes no n_jobs
    print("| model | " + " | ".join(f"own, {n} | ONNX, {n} | ratio" for n in SIZES) + " |")
    print("|---|" + "---|" * 3 * len(SIZES))
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models(arguments.trees).items():
            model.fit(rows, classes)
            cells = compare(model, rows, Path(folder), arguments.rounds)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
