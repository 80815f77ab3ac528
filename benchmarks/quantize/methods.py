"""How fast and how far off each method of `mlserve quantize` is, on three kinds of networks.

    python benchmarks/quantize/methods.py [--digits PKG] [--only NAME] [--rounds 15]

The error is the root mean square of the difference to the float answers, relative to their spread;
"agree" is how often the best class is the same. A ratio is float's time over the method's, medians
of interleaved runs on all cores: above 1 is faster. --digits takes a package of samples/digits,
and then the accuracy on its held-out digits is printed as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import networks
import numpy as np

from mlserve_cli.errors import MlserveError
from mlserve_cli.package import step as steps
from mlserve_cli.package.draft import create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, DynamicStep, HalfStep, StaticStep, WeightOnlyStep
from mlserve_cli.runtime.manifest import Manifest, StepRecord

DIGITS = Path(__file__).parents[2] / "samples" / "digits" / "model.py"


@dataclass
class Case:
    """A float package, rows to calibrate with, other rows to judge by, and their classes."""

    name: str
    package: Package
    calibration: np.ndarray
    rows: np.ndarray
    classes: np.ndarray | None = None

    @property
    def input(self) -> str:
        return self.package.manifest.inputs[0].name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--digits", type=Path, help="a package of samples/digits")
    parser.add_argument("--only", default="", help="networks whose name begins so")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        for case in cases(Path(name), given.digits):
            if case.name.startswith(given.only):
                table(case, Path(name) / "made", given.rounds)


def cases(folder: Path, digits: Path | None):
    random = np.random.default_rng(0)
    if digits is not None:
        spec = importlib.util.spec_from_file_location("digits_definition", DIGITS)
        definition = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(definition)
        calibration = np.concatenate(list(definition.calibration()))
        rows, classes = zip(*definition.evaluation(), strict=True)
        yield Case(
            "digits (trained)",
            Package.open(digits),
            calibration,
            np.concatenate(rows),
            np.concatenate(classes),
        )
    for name, net, rows in (
        (f"ResNet-18, {networks.SIDE} px", networks.ResNet18(), networks.pictures),
        (f"transformer, {networks.LENGTH} tokens", networks.Transformer(), networks.tokens),
    ):
        path = folder / "net.onnx"
        calibration = rows(96, random)
        networks.export(net, calibration, path)
        yield Case(name, pack(path, calibration, folder / name), calibration, rows(64, random))


def pack(model: Path, rows: np.ndarray, target: Path) -> Package:
    manifest = Manifest(
        name="net",
        version="1",
        variant="fp32",
        inputs=(),
        outputs=(),
        lineage=(StepRecord(step="export"),),
    )
    with create(target) as draft:
        shutil.copyfile(model, draft.serve / "model.onnx")
        return Package(target, finish(draft, manifest, [{"x": rows[:16]}]))


def methods(case: Case):
    batches = [
        {case.input: case.calibration[i : i + 32]} for i in range(0, len(case.calibration), 32)
    ]
    for calibrator in ("minmax", "percentile", "entropy", "mse"):
        yield f"static, {calibrator}", StaticStep(batches, choices=Choices(calibrator=calibrator))
    for name, options in (
        ("bias correction", {"bias_correction": True}),
        ("smooth", {"smooth": True}),
        ("both", {"bias_correction": True, "smooth": True}),
        ("7-bit weights", {"reduce_range": True}),
        ("s8s8", {"form": "s8s8"}),
    ):
        yield f"static, {name}", StaticStep(batches, choices=Choices(**options))
    yield "dynamic", DynamicStep()
    yield "int8 weights", WeightOnlyStep(bits=8)
    yield "int4 weights, rtn", WeightOnlyStep(bits=4)
    yield "int4 weights, hqq", WeightOnlyStep(bits=4, algorithm="hqq")
    yield "fp16", HalfStep(batches)


def table(case: Case, folder: Path, rounds: int) -> None:
    print(f"\n{case.name}, {case.package.size_bytes / 1e6:.2f} MB")
    print(
        f"{'':26}{'size':>9}  {'batch 1':>8}  {'batch 8':>8}  {'error':>7}  {'agree':>6}  accuracy"
    )
    exact = answers(case.package, case)
    if case.classes is not None:
        print(f"{'float':26}{'':53}{np.mean(exact.argmax(1) == case.classes):.2%}")
    for name, step in methods(case):
        shutil.rmtree(folder, ignore_errors=True)
        try:
            made = steps.run(step, case.package, folder, progress=Silent())
        except MlserveError as error:
            print(f"{name:26}{error.message}")
            continue
        found = answers(made, case)
        error = np.sqrt(np.mean((found - exact) ** 2)) / exact.std()
        agree = np.mean(found.argmax(1) == exact.argmax(1))
        one, eight = (ratio(case, made, size, rounds) for size in (1, 8))
        right = "" if case.classes is None else f"{np.mean(found.argmax(1) == case.classes):.2%}"
        print(
            f"{name:26}{made.size_bytes / 1e6:6.2f} MB  {one:7.2f}×  {eight:7.2f}×  {error:7.4f}"
            f"  {agree:6.1%}  {right}",
            flush=True,
        )


def answers(package: Package, case: Case) -> np.ndarray:
    engine = package.engine()
    step = package.manifest.batch.max_batch or 64
    parts = [
        next(iter(engine.run({case.input: case.rows[i : i + step]}).values()))
        for i in range(0, len(case.rows), step)
    ]
    engine.close()
    return np.concatenate(parts)


def ratio(case: Case, made: Package, size: int, rounds: int) -> float:
    engines = (case.package.engine(), made.engine())
    feed = {case.input: np.ascontiguousarray(case.rows[:size])}
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 2):
        for engine, taken in zip(engines, times, strict=True):
            start = time.perf_counter()
            engine.run(feed)
            if number >= 2:  # first visits pack weights
                taken.append(time.perf_counter() - start)
    for engine in engines:
        engine.close()
    return float(np.median(times[0]) / np.median(times[1]))


if __name__ == "__main__":
    main()
