"""Answers to stdout, as they come."""

from __future__ import annotations

import sys
import time

from mlserve_cli.errors import DataError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.predict import answers, blocks, parts, sizing
from mlserve_cli.predict.answering import answering, free, place_of, strict_error
from mlserve_cli.predict.blocks import Plan
from mlserve_cli.predict.choices import Choices, Report
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.runtime import processing

SHOWN = 20
"""Rejected rows that are told on stderr, for there is no file for them."""


def to_stdout(
    package: Package, found: Inputs, choices: Choices, progress: Progress, start: float
) -> Report:
    """Answers as they come; nothing is kept, so nothing can go on."""
    if choices.resume:
        raise DataError(
            "answers on stdout are gone, so there is no going on.", hint="write to a file"
        )
    format = choices.piped or "jsonl"
    if format not in ("csv", "jsonl"):
        raise DataError(f"{format} does not go to stdout.", hint="csv and jsonl do")
    manifest = free(package.manifest)
    processor = processing.build(manifest, package.serve)
    chosen = sizing.choose(
        package, threads=choices.threads, batch=choices.batch, input_bytes=found.size_bytes
    )
    batch = chosen.max_batch
    block = batch if found.piped else sizing.block_rows(batch, sizing.row_bytes(package))
    plan = Plan(
        manifest=manifest,
        processor=processor,
        mapping=choices.mapping,
        keep=choices.keep,
        block=block,
    )
    reader = blocks.reader(found, plan)
    made = answers.find(format, manifest, processor)
    rows = rejected = 0
    if sys.stdout is None:  # as a shell's >&- leaves it
        raise DataError("stdout is closed, and the answers go there.", hint="-o FILE writes a file")
    try:
        # A buffer of our own: what a full disk refuses must not be written again at exit.
        with open(sys.stdout.fileno(), "wb", closefd=False) as pipe:
            writer = parts.part(format, pipe, None)
            with answering(
                package, reader, made, chosen, batch, block, Position(), patient=not found.piped
            ) as done:
                progress.stage("predicting", reader.total())
                for item in done:
                    for reject in item.rejects:
                        if choices.strict:
                            raise strict_error(item.block, reject)
                        rejected += 1
                        if rejected <= SHOWN:
                            progress.say(
                                f"rejected: {place_of(item.block, reject)}: {reject.reason}"
                            )
                    if item.piece is not None:
                        writer.write(item.piece)
                        pipe.flush()
                    rows += item.rows
                    seconds = time.monotonic() - start
                    progress.advance(item.block.count, note=f"{rows / seconds:,.0f} rows/s")
    except BrokenPipeError:
        pass  # the reader has all that it wants (`| head`)
    except OSError as error:
        raise DataError(f"stdout cannot be written: {error.strerror}.") from error
    else:
        if not rows and not rejected:
            raise DataError("stdin holds no rows." if found.piped else "the input holds no rows.")
    return Report(
        rows=rows,
        rejected=rejected,
        seconds=time.monotonic() - start,
        parts=0,
        batch=batch,
        threads=chosen.threads,
        instances=chosen.instances,
    )
