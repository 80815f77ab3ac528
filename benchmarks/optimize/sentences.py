# ruff: noqa: TID253
"""Real sentences are short: `python benchmarks/optimize/sentences.py`.

all-MiniLM-L6-v2 with the head of `samples/sentences` (an untrained one will do: it has no share in
the time), its length left open, on glosses of WordNet: each row or batch as long as it is, and
filled up to 128 tokens as a graph of fixed length wants it. Float and `mlserve quantize` take turns
in ONNX Runtime; the medians for a row are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.torch import save_file

from mlserve_cli.export.export import export
from mlserve_cli.package import step as steps
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import StaticStep

SAMPLE = Path(__file__).parent.parent.parent / "samples" / "sentences" / "model.py"
LENGTH = 128
ROWS = 32


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def filled(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name: np.pad(array, ((0, 0), (0, LENGTH - array.shape[1]))) for name, array in batch.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where to keep what is made")
    parser.add_argument("--make", action="store_true", help="make, and measure nothing")
    given = parser.parse_args()
    spec = importlib.util.spec_from_file_location("sentences", SAMPLE)
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        plain, small = folder / "float", folder / "int8"
        if not plain.exists():
            source = folder / "source"
            shutil.copytree(SAMPLE.parent, source, dirs_exist_ok=True)
            shutil.copy(sample.encoder_folder() / "tokenizer.json", source)
            if not (source / "head.safetensors").exists():
                save_file(sample.pretrained().head.state_dict(), source / "head.safetensors")
            export(str(source / SAMPLE.name), plain, progress=Silent())
        package = Package.open(plain)
        if not small.exists():
            steps.run(StaticStep(sample.calibration()), package, small, progress=Silent())
        if given.make:
            return
        sessions = [session(each.model) for each in (package, Package.open(small))]
        texts = [text for text, _ in sample.glosses()["test"][:ROWS]]
        lengths = [len(sample.tokens([text])["input_ids"][0]) for text in texts]
        print(
            f"{ROWS} glosses of {min(lengths)} to {max(lengths)} tokens, in the middle "
            f"{statistics.median(lengths):.0f}"
        )
        print(f"{'ms a row':44}{'float':>8}{'int8':>8}{'ratio':>8}")
        for size in (1, 8):
            batches = [sample.tokens(texts[i : i + size]) for i in range(0, ROWS, size)]
            for text, made in (
                ("as long as it is", batches),
                ("filled up to 128", [filled(each) for each in batches]),
            ):
                first, second = (1e3 * each / size for each in measure(made, sessions))
                shown = f"batch {size}, {text}"
                print(f"{shown:44}{first:8.2f}{second:8.2f}{first / second:7.1f}×", flush=True)


def measure(batches: list, sessions: list[ort.InferenceSession]) -> list[float]:
    """For each session the mean over the batches of its median seconds; they take turns."""
    medians: list[list[float]] = [[] for _ in sessions]
    for batch in batches:
        times: list[list[float]] = [[] for _ in sessions]
        for _ in range(5):
            for number, each in enumerate(sessions):
                start = time.perf_counter()
                each.run(None, batch)
                times[number].append(time.perf_counter() - start)
        for found, taken in zip(medians, times, strict=True):
            found.append(statistics.median(taken[1:]))  # the first visit of a length is slower
    return [statistics.mean(each) for each in medians]


if __name__ == "__main__":
    main()
