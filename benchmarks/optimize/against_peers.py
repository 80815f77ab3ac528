# ruff: noqa: TID253
"""The same networks in int8 by several tools: `python benchmarks/optimize/against_peers.py`.

Each tool gets the same float ONNX file and rows, and is left at its defaults but for what its guide
tells everybody to set. All results run in one ONNX Runtime with the same threads, taking turns; the
time of the float model over theirs is printed. Neural Compressor's own way is torch's compiler, so
it is measured in that. NNCF and Neural Compressor are extras of mlserve and run where they are
installed; Olive is installed into an environment of its own below `--environments` at the first
run.

Only the digits network is trained. What is made is kept in `--folder` and not made again, so that a
second run measures alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import networks
import numpy as np
import onnxruntime as ort
import torch

from mlserve_cli.errors import MlserveError, first_line
from mlserve_cli.export.export import export
from mlserve_cli.package import step as steps
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, StaticStep
from mlserve_cli.quantize.prepare import quietly

HERE = Path(__file__).parent
DIGITS = HERE.parent.parent / "samples" / "digits" / "model.py"
ENVIRONMENTS = Path.home() / ".cache" / "mlserve" / "benchmarks"
OLIVE = ["torch==2.13.0", "olive-ai==0.13.0", "onnxruntime==1.32.0", "requests", "sympy"]
NETS = {"resnet18": "pictures", "resnet50": "pictures", "minilm": "tokens", "bert": "tokens"}
ENCODERS = ("minilm", "bert")
BATCHES = (1, 8)
THREADS = len(os.sched_getaffinity(0))
Run = Callable[[np.ndarray], np.ndarray]


@dataclass
class Case:
    """A float package, its calibration rows, and other rows to judge by."""

    name: str
    package: Package
    calibration: np.ndarray
    rows: np.ndarray
    classes: np.ndarray | None = None

    @property
    def input(self) -> str:
        return self.package.manifest.inputs[0].name

    def batches(self, size: int) -> list[dict[str, np.ndarray]]:
        whole = self.calibration
        return [{self.input: whole[i : i + size]} for i in range(0, len(whole), size)]


@dataclass
class Made:
    """What a tool wrote, how to run it, and what was measured."""

    name: str
    run: Run
    times: dict[int, list[float]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="networks whose name begins so")
    parser.add_argument("--folder", type=Path, help="where to keep what is made")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    parser.add_argument("--made", action="store_true", help="only what was made before")
    parser.add_argument("--without", nargs="*", default=[], help="words in names of tools")
    parser.add_argument("--rounds", type=int, default=9, help="0 makes, and measures nothing")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = (given.folder or Path(name)).absolute()
        for case in cases(folder, given.only):
            table(case, folder / case.name / "made", given)


def cases(folder: Path, only: str) -> Iterator[Case]:
    if "digits".startswith(only) or only.startswith("digits"):
        definition = _load(DIGITS)
        rows, classes = zip(*definition.evaluation(), strict=True)
        yield Case(
            "digits",
            _package(DIGITS, folder / "digits" / "float"),
            np.concatenate(list(definition.calibration()))[:64],
            np.concatenate(rows),
            np.concatenate(classes),
        )
    for net, rows in NETS.items():
        if not net.startswith(only):
            continue
        source = folder / net / "source" / "model.py"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(networks.definition(net, rows))
        shutil.copy(networks.__file__, source.parent)
        draw = getattr(networks, rows)
        package = _package(source, folder / net / "float")
        yield Case(net, package, draw(64, 2).numpy(), draw(64, 3).numpy())


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _package(source: Path, target: Path) -> Package:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        export(str(source), target, progress=Silent())
    return Package.open(target)


# What writes each variant: (case, target file).


def mlserve(**choices) -> Callable[[Case, Path], None]:
    quantizer = choices.pop("quantizer", "onnxruntime")

    def write(case: Case, target: Path) -> None:
        step = StaticStep(case.batches(16), choices=Choices(**choices), quantizer=quantizer)
        with tempfile.TemporaryDirectory() as folder:
            made = steps.run(step, case.package, Path(folder) / "int8", progress=Silent())
            shutil.copy(made.model, target)

    return write


def runtime_static(case: Case, target: Path) -> None:
    """quantize_static as it comes, after the pre-processing that its guide asks for."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        rows = iter(case.batches(1))

        def get_next(self):
            return next(self.rows, None)

    quantize_static(_preprocessed(case, target), target, Reader())


def runtime_dynamic(case: Case, target: Path) -> None:
    """quantize_dynamic as it comes, after the same pre-processing."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_preprocessed(case, target), target)


def _preprocessed(case: Case, target: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = target.with_name("preprocessed")
    if not path.exists():
        quant_pre_process(case.package.model, path)
    return path


def nncf(case: Case, target: Path) -> None:
    """nncf.quantize as it comes; a transformer is named as one, as its guide asks for."""
    os.environ["NNCF_CI"] = "1"  # else it sends an event to Google
    import nncf
    import onnx

    attends = nncf.ModelType.TRANSFORMER if case.name in ENCODERS else None
    rows = case.batches(1)
    made = nncf.quantize(
        onnx.load(case.package.model), nncf.Dataset(rows), subset_size=len(rows), model_type=attends
    )
    onnx.save(made, target)


def neural_compressor(case: Case, target: Path) -> None:
    """PT2E static int8 as it comes; torch's compiler takes it when it is opened."""
    from neural_compressor.torch.export import export as captured
    from neural_compressor.torch.quantization import (
        convert,
        get_default_static_config,
        prepare,
    )

    from mlserve_cli.training import source

    module = source.load(case.package).module
    example = (torch.from_numpy(case.calibration[:8]),)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    with torch.no_grad():
        observed = prepare(
            captured(module, example, dynamic_shapes=shapes),
            get_default_static_config(),
            example_inputs=example,
        )
        for batch in case.batches(16):
            observed(torch.from_numpy(batch[case.input]))
        converted = convert(observed)
        program = torch.export.export(converted, example, dynamic_shapes=shapes)
    program._example_inputs = None  # they need not be kept
    torch.export.save(program, target)


def olive(environments: Path) -> Callable[[Case, Path], None]:
    """OnnxStaticQuantization as it comes, in an environment of its own."""

    def write(case: Case, target: Path) -> None:
        folder = environments / "olive"
        python, mark = folder / "bin" / "python", folder / "complete"
        if not mark.exists():
            print(f"installing Olive into {folder} …", file=sys.stderr, flush=True)
            venv.create(folder, with_pip=True, clear=True)
            for wanted in OLIVE[:1], OLIVE:  # PyTorch first, by its exact version
                subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
            mark.touch()
        rows = target.with_name("rows.npz")
        np.savez(rows, **{case.input: case.calibration})
        done = subprocess.run(
            [python, HERE / "peers" / "with_olive.py", case.package.model, rows, target],
            env={**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])

    return write


def tools(case: Case, environments: Path) -> dict[str, Callable[[Case, Path], None]]:
    ours = {"mlserve": mlserve(fuse=case.name in ENCODERS)}
    if case.name in ENCODERS:
        ours["mlserve --no-fuse"] = mlserve()
        ours["mlserve --smooth"] = mlserve(smooth=True, fuse=True)
    if _installed("nncf"):
        ours["mlserve --quantizer nncf"] = mlserve(quantizer="nncf")
    if _installed("neural_compressor"):
        ours["mlserve --quantizer neural-compressor"] = mlserve(quantizer="neural-compressor")
    theirs = {"ONNX Runtime, static": runtime_static, "ONNX Runtime, dynamic": runtime_dynamic}
    theirs |= {"NNCF": nncf} if _installed("nncf") else {}
    theirs |= {"Olive": olive(environments)}
    if _installed("neural_compressor"):
        theirs["Neural Compressor, inductor"] = neural_compressor
    return ours | theirs


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def make(case: Case, folder: Path, given: argparse.Namespace) -> Iterator[Made]:
    folder.mkdir(parents=True, exist_ok=True)
    yield Made("float", _session(case, case.package.model))
    for name, write in tools(case, given.environments).items():
        if any(word in name for word in given.without):
            continue
        words = name.lower().replace(",", "").replace(" ", "-")
        target = folder / (words + (".pt2" if "inductor" in name else ".onnx"))
        if given.made and not target.exists():
            continue
        nowhere = io.StringIO()
        try:
            if not target.exists():
                with quietly(), redirect_stdout(nowhere), redirect_stderr(nowhere):
                    write(case, target)
            yield Made(name, _opened(case, target))
        except (MlserveError, Exception) as error:  # a peer may fail: that is a result, too
            target.unlink(missing_ok=True)
            print(f"{name}: {first_line(error)[:150]}", flush=True)


def _opened(case: Case, path: Path) -> Run:
    if path.suffix == ".onnx":
        return _session(case, path)
    import neural_compressor.torch.quantization  # noqa: F401  (registers the program's operators)
    from torch._inductor import config

    config.freezing = True  # weights are packed once, and products fused with what follows
    torch._dynamo.reset()
    compiled = torch.compile(torch.export.load(path).module(), dynamic=False)

    def run(rows: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return compiled(torch.from_numpy(rows)).numpy()

    return run


def _session(case: Case, path: Path) -> Run:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = THREADS
    # A pool that spins while another model has its turn would take that one's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {case.input: rows})[0]


def table(case: Case, folder: Path, given: argparse.Namespace) -> None:
    print(f"\n{case.name}", flush=True)
    made = list(make(case, folder, given))
    if not given.rounds:
        return
    for number in range(given.rounds + 1):
        for size in BATCHES:
            rows = np.ascontiguousarray(case.rows[:size])
            for each in made:
                start = time.perf_counter()
                each.run(rows)
                if number:  # first visits pack weights
                    each.times.setdefault(size, []).append(time.perf_counter() - start)
    exact = _answers(case, made[0])
    print(f"{'':40}{'batch 1':>10}{'batch 8':>10}{'error':>9}   accuracy")
    for each in made:
        found = _answers(case, each)
        error = np.sqrt(np.mean((found - exact) ** 2)) / exact.std()
        medians = [statistics.median(each.times[size]) for size in BATCHES]
        first = [statistics.median(made[0].times[size]) for size in BATCHES]
        shown = [
            f"{m * 1e3:.1f} ms" if each is made[0] else f"{f / m:.2f}×"
            for f, m in zip(first, medians, strict=True)
        ]
        right = "" if case.classes is None else f"{np.mean(found.argmax(1) == case.classes):.1%}"
        print(f"{each.name:40}{shown[0]:>10}{shown[1]:>10}{error:9.4f}   {right}", flush=True)


def _answers(case: Case, made: Made) -> np.ndarray:
    rows = case.rows
    return np.concatenate([made.run(rows[i : i + 8]) for i in range(0, len(rows), 8)])


if __name__ == "__main__":
    main()
