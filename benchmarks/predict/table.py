"""How much of the bare engine's rows a second is left when they come from a Parquet table?

    python benchmarks/predict/table.py           # two minutes; needs the extras batch and boosting

The model is boosted trees (XGBoost, 300 rounds, depth 6) on 30 float32 columns; the tables hold
noise, which no encoding makes smaller. Measured are

    bare      the engine alone, in a loop a core, on batches that lie in memory as the model takes
              them: the same engine options, batch and number of threads as `mlserve predict` chose
    predict   `mlserve predict TABLE -o answers.parquet`, as it says itself: from the first byte
              read to the last one written, with the measurement that chooses the batch

and the peak memory (VmHWM, as wait4 tells it) of the whole process, for a small and a large table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.package.package import Package
from mlserve_cli.predict import sizing as sizes

BARE_S = 10.0


def make_package(folder: Path, columns: int) -> Package:
    """Trees that learned a rule of ten of the columns."""
    import shutil

    from xgboost import XGBClassifier

    from mlserve_cli.export import boosting, conversion
    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.runtime.manifest import Manifest
    from mlserve_cli.runtime.processing.declaration import Column, Processing, TableInput

    made = np.random.default_rng(0)
    rows = made.standard_normal((20_000, columns)).astype(np.float32)
    answers = (rows[:, :10] ** 2).sum(axis=1) + made.standard_normal(len(rows)) > 10
    model = XGBClassifier(n_estimators=300, max_depth=6, n_jobs=2).fit(rows, answers)
    written = conversion.convert(boosting.estimator(model), {"input": rows})
    conversion.save(written, folder / "model.onnx", ["label", "probabilities"])
    with create(folder / "package") as draft:
        shutil.move(folder / "model.onnx", draft.serve / "model.onnx")
        declared = Processing(
            input=TableInput(columns=tuple(map(Column, names(columns))), tensor="input")
        )
        manifest = Manifest(
            name="trees", version="1", variant="fp32", inputs=(), outputs=(), processing=declared
        )
        finish(draft, manifest, [{"input": rows[:1000]}])
    return Package.open(folder / "package")


def names(columns: int) -> list[str]:
    return [f"c{number:03}" for number in range(columns)]


def make_table(path: Path, gigabytes: float, columns: int) -> int:
    """Write a table of that size; its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = np.random.default_rng(1)
    total = int(gigabytes * 1e9 / (columns * 4))
    schema = pa.schema([(name, pa.float32()) for name in names(columns)])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, total, 1 << 18):
            rows = made.standard_normal((columns, min(1 << 18, total - start)), np.float32)
            writer.write_table(pa.table(list(rows), schema=schema))
    return total


def child(*arguments: Any) -> tuple[dict[str, Any], float]:
    """Run Python; its JSON document and its peak memory in MiB."""
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return json.loads(text), usage.ru_maxrss / 1024


def bare(package: Package, batch: int, threads: int, instances: int) -> dict[str, Any]:
    """The engine in a loop a core, for some seconds."""
    from mlserve_cli.runtime.sizing import Sizing

    chosen = Sizing(threads=threads, instances=instances, max_batch=batch)
    engines, streams = sizes.load(package, chosen)
    rows = (
        np.random.default_rng(2)
        .standard_normal((1 << 17, *package.manifest.inputs[0].shape[1:]))
        .astype(np.float32)
    )
    batches = [
        np.ascontiguousarray(rows[start : start + batch]) for start in range(0, len(rows), batch)
    ]
    for batch_rows in batches[:20]:
        engines[0].run({"input": batch_rows})
    counts = [0] * (len(engines) * streams)
    begin = time.perf_counter()

    def loop(number: int, engine: Any) -> None:
        place = number * len(batches) // len(counts)
        while time.perf_counter() - begin < BARE_S:
            engine.run({"input": batches[place]})
            counts[number] += len(batches[place])
            place = (place + 1) % len(batches)

    threads_ = [
        threading.Thread(target=loop, args=(number, engine))
        for number, engine in enumerate([*engines] * streams)
    ]
    for thread in threads_:
        thread.start()
    for thread in threads_:
        thread.join()
    return {"rows_per_s": sum(counts) / (time.perf_counter() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where tables and package are kept")
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument("--bare", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        path, *numbers = given.bare
        print(json.dumps(bare(Package.open(Path(path)), *map(int, numbers))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        package = folder / "package"
        if not package.exists():
            make_package(folder, given.columns)
        tables = []
        for gigabytes in (given.gigabytes / 10, given.gigabytes):
            tables.append(folder / f"{gigabytes:g}.parquet")
            if not tables[-1].exists():
                make_table(tables[-1], gigabytes, given.columns)
        if given.only_prepare:
            return
        measure(package, tables, folder)


def measure(package: Path, tables: list[Path], folder: Path) -> None:
    main_ = ("-c", "from mlserve_cli.cli.main import run; run()", "predict", package)

    def predict(table: Path) -> tuple[dict[str, Any], float]:
        out = folder / "answers.parquet"
        options = ("-i", table, "-o", out, "--force", "--json")
        return child(*main_, *options)

    small, small_mib = predict(tables[0])
    numbers = [small[name] for name in ("batch", "threads", "instances")]
    alone = [child(__file__, "--bare", package, *numbers)[0]["rows_per_s"]]
    large, large_mib = predict(tables[1])
    numbers = [large[name] for name in ("batch", "threads", "instances")]
    alone.append(child(__file__, "--bare", package, *numbers)[0]["rows_per_s"])
    engine = float(np.mean(alone))
    print(f"batch {numbers[0]}, {numbers[2]} instances of {numbers[1]} thread(s)\n")
    print("| | rows | rows/s | of the bare engine | peak memory, MiB |\n|---|---|---|---|---|")
    print(f"| bare engine, before and after | | {alone[0]:,.0f}, {alone[1]:,.0f} | | |")
    for table, report, mib in ((tables[0], small, small_mib), (tables[1], large, large_mib)):
        size = table.stat().st_size / 1e9
        print(
            f"| predict, {size:.2f} GB | {report['rows']:,} | {report['rows_per_s']:,.0f} | "
            f"{report['rows_per_s'] / engine:.1%} | {mib:,.0f} |"
        )


if __name__ == "__main__":
    main()
