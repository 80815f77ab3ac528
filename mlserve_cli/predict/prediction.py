"""Rows of files, through the package, into files: in their order, in bounded memory, resumable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from mlserve_cli.errors import DataError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.predict import answers, inputs, layout, location, place
from mlserve_cli.predict.choices import Choices, Report
from mlserve_cli.predict.run import Run
from mlserve_cli.predict.stdout import to_stdout

__all__ = ["Choices", "Report", "predict"]


def predict(
    package: Package,
    sources: Sequence[str],
    target: str,
    *,
    choices: Choices,
    progress: Progress,
) -> Report:
    """Answer every row of `sources` (see `inputs.find`) into `target`.

    target: a file, whose ending says the format; a folder (it ends with "/", is there, or has no
    ending) for parts; "-" for stdout.

    Raises `DataError` where the input or the output as a whole is wrong, and with `strict` for the
    first row that is. What was written by then stays, to go on with `resume`.
    """
    start = time.monotonic()
    layout.check_names(package.manifest)
    found = inputs.find(sources, package.manifest, piped=choices.piped or "jsonl")
    if target == "-":
        return to_stdout(package, found, choices, progress, start)
    format, folder = _format(target, choices)
    if choices.resume and found.piped:
        raise DataError(
            "what came through stdin cannot be read again, so there is no going on.",
            hint="put the rows into a file, or begin again without --resume",
        )
    where = place.find(target, folder=folder)
    try:
        return Run(package, found, where, format, choices, progress, start).run()
    finally:
        where.close()


def _format(target: str, choices: Choices) -> tuple[str, bool]:
    """(format, whether the output is a folder of parts). Raises `DataError`."""
    path = Path(target.rstrip("/"))
    known = answers.SUFFIXES.get(path.suffix.lower())
    is_folder = target.endswith("/") or (not location.is_url(target) and path.is_dir())
    if is_folder or not path.suffix:
        return known or choices.piped or "parquet", True
    if known is None:
        raise DataError(
            f"'{target}' is of no kind that can be written ('{path.suffix}').",
            hint="answers go to .csv, .jsonl, .npz, .parquet or .arrow, or a folder (name/)",
        )
    return known, False
