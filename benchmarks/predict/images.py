"""How much of decoding and predicting is left when pictures come from files?

    python benchmarks/predict/images.py          # a minute; needs the extras batch, image and torch

The model is a ResNet-18 of random weights with 224 × 224 inputs; the pictures are JPEG files of
320 × 240, smooth shapes with a little noise. Measured are

    bare      a loop a core: decode a batch of files that lie in memory by the package's own
              processing, run the engine on it, and drop the answers; the batch, the threads and the
              engine's options are those that `mlserve predict` chose
    predict   `mlserve predict FOLDER -o answers.parquet`, as it says itself: with listing, reading
              and writing, and with the measurement that chooses the batch
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from table import child

from mlserve_cli.package.package import Package
from mlserve_cli.predict import sizing as sizes
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.processing.declaration import ImageInput, Processing
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import rows

BARE_S = 15.0


def make_package(folder: Path) -> None:
    import torch
    from torch import nn

    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.runtime.manifest import Manifest

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(before, after, 3, stride, 1)
            self.second = nn.Conv2d(after, after, 3, 1, 1)
            self.beside = nn.Conv2d(before, after, 1, stride) if stride > 1 else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.second(torch.relu(self.first(x)))
            return torch.relu(0.1 * inner + self.beside(x))

    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for before, after, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Block(before, after, stride), Block(after, after, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    model = nn.Sequential(*layers).eval()
    sample = torch.rand(4, 3, 224, 224)
    with create(folder / "package") as draft:
        torch.onnx.export(
            model,
            (sample,),
            str(draft.serve / "model.onnx"),
            input_names=["x"],
            output_names=["scores"],
            dynamic_shapes=({0: "batch"},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        declared = Processing(input=ImageInput(tensor="x", width=224, height=224, resize="cover"))
        manifest = Manifest(
            name="pictures",
            version="1",
            variant="fp32",
            inputs=(),
            outputs=(),
            processing=declared,
            sample="synthetic",
        )
        finish(draft, manifest, [{"x": sample.numpy()}])


def make_pictures(folder: Path, count: int) -> None:
    from PIL import Image

    made = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = made.integers(0, 255, (6, 8, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + made.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05}.jpg", quality=90)


def bare(path: Path, folder: Path, batch: int, threads: int, instances: int) -> dict[str, Any]:
    package = Package.open(path)
    chosen = Sizing(threads=threads, instances=instances, max_batch=batch)
    engines, streams = sizes.load(package, chosen)
    processor = processing.build(package.manifest, package.serve)
    files = [file.read_bytes() for file in sorted(folder.iterdir())]
    loops = [*engines] * streams
    counts = [0] * len(loops)
    loops[0].run(processor.tensors(files[:batch]))
    begin = time.perf_counter()

    def loop(number: int, engine: Any) -> None:
        place = number * len(files) // len(loops)
        while time.perf_counter() - begin < BARE_S:
            tensors = processor.tensors(files[place : place + batch])
            engine.run(tensors)
            counts[number] += rows(tensors)
            place = place + batch if place + batch < len(files) else 0

    running = [
        threading.Thread(target=loop, args=(number, engine)) for number, engine in enumerate(loops)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {"rows_per_s": sum(counts) / (time.perf_counter() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where pictures and package are kept")
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument("--bare", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        package, folder, *numbers = given.bare
        print(json.dumps(bare(Path(package), Path(folder), *map(int, numbers))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "package").exists():
            make_package(folder)
        if not (folder / "pictures").exists():
            make_pictures(folder / "pictures", given.pictures)
        if not given.only_prepare:
            measure(folder / "package", folder / "pictures", folder / "answers.parquet")


def measure(package: Path, pictures: Path, out: Path) -> None:
    command = ("-c", "from mlserve_cli.cli.main import run; run()", "predict", package)
    options = ("-i", pictures, "-o", out, "--force", "--json")
    first, _ = child(*command, *options)
    numbers = [first[name] for name in ("batch", "threads", "instances")]
    before = child(__file__, "--bare", package, pictures, *numbers)[0]["rows_per_s"]
    report, mib = child(*command, *options, "--batch", numbers[0])
    after = child(__file__, "--bare", package, pictures, *numbers)[0]["rows_per_s"]
    engine = (before + after) / 2
    print(f"batch {numbers[0]}, {numbers[2]} instances of {numbers[1]} thread(s)\n")
    print("| | pictures/s | of the bare loop | peak memory, MiB |\n|---|---|---|---|")
    print(f"| bare loop, before and after | {before:,.1f}, {after:,.1f} | | |")
    for name, each in (("with a measured batch", first), ("with that batch given", report)):
        speed = each["rows_per_s"]
        print(f"| predict, {name} | {speed:,.1f} | {speed / engine:.1%} | {mib:,.0f} |")


if __name__ == "__main__":
    main()
