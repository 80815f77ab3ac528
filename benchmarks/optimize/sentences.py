# ruff: noqa: TID253
"""Real sentences are short: `python benchmarks/optimize/sentences.py`.

all-MiniLM-L6-v2 with the head of `samples/sentences` (an untrained one will do: it has no share in
the time), its length left open, on glosses of WordNet: each row or batch as long as it is, and
filled up to 128 tokens as a graph of fixed length wants it. Float and `mlserve quantize`, with its
attention as one operator and as plain nodes, take turns in ONNX Runtime; the mean over the batches
of their median times is printed for a row. `--processor-time` gives that of one thread instead,
which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from safetensors.torch import save_file

from mlserve_cli.export.export import export
from mlserve_cli.package import step as steps
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, StaticStep

SAMPLE = Path(__file__).parent.parent.parent / "samples" / "sentences" / "model.py"
LENGTH = 128
ROWS = 32
VARIANTS = {"int8": True, "int8 --no-fuse": False}  # whether attention becomes one operator


def session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
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
    parser.add_argument("--processor-time", action="store_true", help="of one thread")
    given = parser.parse_args()
    spec = importlib.util.spec_from_file_location("sentences", SAMPLE)
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        plain = folder / "float"
        if not plain.exists():
            source = folder / "source"
            shutil.copytree(SAMPLE.parent, source, dirs_exist_ok=True)
            shutil.copy(sample.encoder_folder() / "tokenizer.json", source)
            if not (source / "head.safetensors").exists():
                save_file(sample.pretrained().head.state_dict(), source / "head.safetensors")
            export(str(source / SAMPLE.name), plain, progress=Silent())
        package = Package.open(plain)
        files = {"float": package.model}
        for title, fuse in VARIANTS.items():
            made = folder / title
            if not made.exists():
                step = StaticStep(sample.calibration(), choices=Choices(fuse=fuse))
                steps.run(step, package, made, progress=Silent())
            files[title] = Package.open(made).model
        if given.make:
            return
        threads = 1 if given.processor_time else len(os.sched_getaffinity(0))
        clock = time.thread_time if given.processor_time else time.perf_counter
        sessions = [session(each, threads) for each in files.values()]
        texts = [text for text, _ in sample.glosses()["test"][:ROWS]]
        lengths = [len(sample.tokens([text])["input_ids"][0]) for text in texts]
        print(
            f"{ROWS} glosses of {min(lengths)} to {max(lengths)} tokens, in the middle "
            f"{statistics.median(lengths):.0f}"
        )
        print(f"{'ms a row':28}" + "".join(f"{title:>18}" for title in files))
        for size in (1, 8):
            batches = [sample.tokens(texts[i : i + size]) for i in range(0, ROWS, size)]
            for text, made in (
                ("as long as it is", batches),
                ("filled up to 128", [filled(each) for each in batches]),
            ):
                found = [1e3 * each / size for each in measure(made, sessions, clock)]
                shown = [f"{each:10.2f} {found[0] / each:6.2f}×" for each in found]
                print(f"{f'batch {size}, {text}':28}" + "".join(shown), flush=True)


def measure(
    batches: list, sessions: list[ort.InferenceSession], clock: Callable[[], float]
) -> list[float]:
    """For each session the mean over the batches of its median seconds; they take turns."""
    medians: list[list[float]] = [[] for _ in sessions]
    for batch in batches:
        times: list[list[float]] = [[] for _ in sessions]
        for _ in range(5):
            for number, each in enumerate(sessions):
                start = clock()
                each.run(None, batch)
                times[number].append(clock() - start)
        for found, taken in zip(medians, times, strict=True):
            found.append(statistics.median(taken[1:]))  # the first visit of a length is slower
    return [statistics.mean(each) for each in medians]


if __name__ == "__main__":
    main()
