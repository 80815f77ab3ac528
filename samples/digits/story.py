"""The digits story, told by the commands that a person would type; `scripts/demo` runs it.

Train a network on real digits, package it, make it smaller in five ways, let the gates judge each,
measure all side by side, emit a server of the best, send it a picture, print one table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MAX_DROP_POINTS = 1.0


@dataclass
class Variant:
    """A package of the story: its folder, and what the gates said of it."""

    name: str
    path: Path
    accuracy: dict[str, Any]
    refusals: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="where packages go")
    parser.add_argument(
        "--quick", action="store_true", help="one epoch of everything: for tests, not for figures"
    )
    options = parser.parse_args()
    began = time.monotonic()
    out: Path = options.output
    out.mkdir(parents=True, exist_ok=True)
    epochs = ["--epochs", "1"] if options.quick else []
    allowed = "100" if options.quick else str(MAX_DROP_POINTS)
    gate = ["--max-drop", allowed, "--force", "--json"]

    say("1. Train the network on 3,800 real digits")
    run([sys.executable, str(HERE / "train.py"), *epochs])

    say("2. Package it: checked against PyTorch at batch 1, 2 and 7")
    parent = out / "digits"
    mlserve("export", HERE / "model.py", "-o", parent, "--force")
    measured = document("evaluate", parent, "--json")
    variants = [Variant("digits", parent, measured, [])]

    say("3. Make it smaller, each way judged on the 1,000 digits that were held out")
    for name, command in {
        "digits-int8": ["quantize", parent],
        "digits-pruned": ["prune", parent, *epochs],
        "digits-student": ["distill", parent, *epochs],
        "digits-pruned-int8": ["quantize", out / "digits-pruned"],
        "digits-student-int8": ["quantize", out / "digits-student"],
    }.items():
        source = Path(command[1])
        if not source.is_dir():
            print(f"   {source.name} was refused, so there is no {name}")
            continue
        made = document(command[0], source, "-o", out / name, *command[2:], *gate, may_refuse=True)
        variants.append(Variant(name, Path(made["package"]), made["after"], made["refusals"]))

    say("4. Measure all of them side by side")
    figures = bench(variants, seconds="0.1" if options.quick else "1")

    best = choose(variants, figures)
    say(f"5. Emit a server of {best.name}, start it, and send it a picture")
    server = out / "server"
    mlserve("emit", best.path, "-o", server, "--force")
    answer = ask(server, HERE / "digit.png")

    table(variants, figures)
    print(f"\ndigit.png is answered: {json.dumps(answer['predictions'][0])}")
    print(f"From training to that answer: {time.monotonic() - began:.0f} s. Go on with:")
    print(f"  mlserve up {best.path}")


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(command: list[str], *, may_refuse: bool = False, quiet: bool = False) -> str:
    """Show a command, run it, and return what it printed; a failure ends the story."""
    shown = ["python" if part == sys.executable else part for part in command]
    print(f"   $ {shlex.join(shown)}", flush=True)
    done = subprocess.run(
        command, stdout=subprocess.PIPE if quiet else None, text=True, check=False
    )
    if done.returncode != 0 and not (may_refuse and done.returncode == 1 and done.stdout):
        sys.exit(f"the story ends here: the command above ended with status {done.returncode}")
    return done.stdout or ""


def mlserve(*arguments: object) -> None:
    run(["mlserve", *map(str, arguments)])


def document(*arguments: object, may_refuse: bool = False) -> dict[str, Any]:
    """The JSON document that a command prints; one that was refused (status 1) prints it too."""
    text = run(["mlserve", *map(str, arguments)], may_refuse=may_refuse, quiet=True)
    found: dict[str, Any] = json.loads(text)
    return found


def bench(variants: list[Variant], seconds: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Folder name → batch size → its figures, with the size in bytes as batch 0."""
    paths = [variant.path for variant in variants]
    report = document("bench", *paths, "--batch", "1,8", "--seconds", seconds, "--json")
    return {
        package["label"]: {
            0: {"size_bytes": package["size_bytes"]},
            **{batch["batch"]: batch for batch in package["batches"]},
        }
        for package in report["packages"]
    }


def choose(variants: list[Variant], figures: dict[str, dict[int, dict[str, Any]]]) -> Variant:
    """The fastest at batch 1 that no gate refused and that keeps the accuracy of the first."""
    first = variants[0].accuracy["value"]
    good = [
        variant
        for variant in variants
        if not variant.refusals and first - variant.accuracy["value"] <= MAX_DROP_POINTS
    ]
    return min(good or variants[:1], key=lambda item: figures[item.path.name][1]["p50_ms"])


def ask(server: Path, picture: Path) -> dict[str, Any]:
    """Start the emitted server on a free port, post the picture, stop it with SIGTERM."""
    print(f"   $ python {server / 'server.py'} &", flush=True)
    process = subprocess.Popen(
        [sys.executable, str(server / "server.py")],
        env={**os.environ, "MLSERVE_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = address(process)
        print(f"   $ curl {url}/predict/digits --data-binary @{picture.name}", flush=True)
        request = urllib.request.Request(
            f"{url}/predict/digits",
            data=picture.read_bytes(),
            headers={"Content-Type": "image/png"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    if process.returncode != 0:
        sys.exit(f"the server ended with status {process.returncode} after SIGTERM")
    return answer


def address(process: subprocess.Popen[str]) -> str:
    """The address that the server says it listens at."""
    seen = []
    for line in process.stderr or ():
        seen.append(line)
        if found := re.search(r"http://[\w.:\[\]]+", line):
            return found.group()
    sys.exit("the server did not start:\n" + "".join(seen))


def table(variants: list[Variant], figures: dict[str, dict[int, dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("variant", title="Measured in this run", title_justify="left")
    for name in ("size", "accuracy (95 %)", "p50, batch 1", "rows/s, batch 8", "speed-up"):
        shown.add_column(name, justify="right")
    shown.add_column("gates")
    first = figures[variants[0].path.name]
    for variant in variants:
        mine, accuracy = figures[variant.path.name], variant.accuracy
        shown.add_row(
            variant.name,
            f"{mine[0]['size_bytes'] / 1e6:.2f} MB",
            f"{accuracy['value']:.1f} % ({accuracy['low']:.1f} … {accuracy['high']:.1f})",
            f"{mine[1]['p50_ms']:.2f} ms",
            f"{mine[8]['rows_per_s']:,.0f}",
            f"{first[1]['p50_ms'] / mine[1]['p50_ms']:.1f}×",
            "refused" if variant.refusals else "passed",
        )
    print()
    Console(width=None if sys.stdout.isatty() else 110).print(shown)


if __name__ == "__main__":
    main()
