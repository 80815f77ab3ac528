"""Does a model answer what its source answers? On real rows, at several batch sizes, by meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlserve_cli.errors import StepError, first_line
from mlserve_cli.graph import difference
from mlserve_cli.graph.difference import Line
from mlserve_cli.graph.edges import Edges
from mlserve_cli.runtime.engines import Engine
from mlserve_cli.runtime.tensors import Tensors, rows

SIZES = (1, 2, 7)
"""One row alone, an even and an odd batch; a batch size that was baked in fails two of them."""

LIMIT_BATCHES = 8
"""At each batch size; enough inputs to see, and a slow source is asked no more than that."""

LIMIT_ROWS = LIMIT_BATCHES * max(SIZES)

TOLERANCE = 1e-4
"""Relative to the output's largest magnitude. float32 kernels that sum in another order stay two
orders below; a wrong operator lands orders above."""


@dataclass(frozen=True, slots=True)
class Parity:
    """A model against its source.

    relative_error: the largest over all outputs and batch sizes.
    agreement: share of decisions (argmax over classes; whole numbers and text as they are) that
    are the same, over all of them; 1.0 where no output decides anything.
    deviating, changed: the largest of any output and batch size. on_edge: of the most rows.
    rows: how many rows were compared. tiled: the sample was repeated to fill the largest batch.
    edges: the same next to the splits of a model of trees.
    """

    relative_error: float
    agreement: float
    rows: int
    deviating: float = 0.0
    changed: float = 0.0
    on_edge: float = 0.0
    tolerance: float = TOLERANCE
    tiled: bool = False
    lines: tuple[Line, ...] = ()
    edges: Edges | None = None


Nudge = Callable[[Tensors], Iterable[Tensors]]
"""A batch → the same rows changed by as little as a float32 cannot tell. Where the source's own
answer moves with that, as beside a tree's split, a difference says nothing of the model."""


def compare(
    source: Callable[[Tensors], Tensors],
    engine: Engine,
    real: Tensors,
    *,
    sizes: Sequence[int] = SIZES,
    tolerance: float = TOLERANCE,
    nudge: Nudge | None = None,
    decided_by: Mapping[str, str] | None = None,
) -> Parity:
    """Run both on the same real rows in batches of each size, and compare what they answer.

    A sample with fewer rows than the largest batch is repeated. `nudge` tells float noise from a
    difference, for sources that are not continuous. `decided_by` names the scores that a label is
    decided by: between scores that tie within the tolerance, either label is right.

    Raises `StepError` when a batch size was baked into the model, or one side fails at one.
    """
    fixed = {
        spec.shape[0] for spec in engine.inputs if spec.shape and isinstance(spec.shape[0], int)
    }
    if fixed - set(sizes) or len(fixed) > 1 or (fixed and len(sizes) > 1):
        raise StepError(
            f"the batch size {min(fixed)} was baked into the model.",
            hint="take it from the input, as in x.view(x.shape[0], -1), "
            "never from a number or the sample",
        )
    tiled = rows(real) < max(sizes)
    real = _tiled(real, max(sizes)) if tiled else real
    compared = 0
    lines: list[Line] = []
    for size in sizes:
        expected: list[Tensors] = []
        found: list[Tensors] = []
        moved: list[list[Tensors]] = []
        starts = range(0, rows(real) - size + 1, size)[:LIMIT_BATCHES]
        compared = max(compared, len(starts) * size)
        for start in starts:
            batch = {
                name: np.ascontiguousarray(array[start : start + size])
                for name, array in real.items()
            }
            expected.append(_attempt(source, batch, size, "the source model"))
            found.append(_attempt(engine.run, batch, size, "the exported model"))
            moved.append([source(each) for each in nudge(batch)] if nudge else [])
        for name in expected[0]:
            if name not in found[0]:
                raise StepError(f"the exported model has no output '{name}'.")
            scores = (decided_by or {}).get(name, "")
            lines.append(
                difference.compare(
                    name,
                    size,
                    [each[name] for each in expected],
                    [each[name] for each in found],
                    [[each[name] for each in variants] for variants in moved],
                    tolerance,
                    difference.ties([each.get(scores) for each in expected], tolerance),
                )
            )
    decisions = [line for line in lines if line.agreement is not None]
    weight = sum(line.rows for line in decisions)
    return Parity(
        relative_error=max(line.relative_error for line in lines),
        agreement=sum((line.agreement or 0.0) * line.rows for line in decisions) / weight
        if weight
        else 1.0,
        rows=compared,
        deviating=max(line.deviating for line in lines),
        changed=max(line.changed for line in lines),
        on_edge=max(line.on_edge for line in lines if line.rows == compared),
        tolerance=tolerance,
        tiled=tiled,
        lines=tuple(lines),
    )


def together(parts: Sequence[Parity]) -> Parity:
    """Comparisons of one model on several sets of rows, as one: the worst of each, all lines."""
    lines = tuple(line for part in parts for line in part.lines)
    decisions = [line for line in lines if line.agreement is not None]
    weight = sum(line.rows for line in decisions)
    return Parity(
        relative_error=max(part.relative_error for part in parts),
        agreement=sum((line.agreement or 0.0) * line.rows for line in decisions) / weight
        if weight
        else 1.0,
        rows=sum(part.rows for part in parts),
        deviating=max(part.deviating for part in parts),
        changed=max(part.changed for part in parts),
        on_edge=max(part.on_edge for part in parts),
        tolerance=max(part.tolerance for part in parts),
        tiled=any(part.tiled for part in parts),
        lines=lines,
    )


def check(parity: Parity, *, share: float = 0.0) -> None:
    """Raise `StepError` only where the meaning differs.

    That is: more than `share` of the rows are over the tolerance, or more than `share` of the
    decisions changed, both beyond float noise.
    """
    # A share of few rows says nothing: one row of eight is 12 %.
    most = max(line.rows for line in parity.lines)
    lines = [line for line in parity.lines if not share or line.rows == most]
    hint = "check that the model is deterministic in eval mode, and that the sample is real"
    for line in lines:
        if line.changed > share:
            raise StepError(
                f"the exported model decides otherwise than its source on {line.changed:.2%} of "
                f"{line.rows} rows (output '{line.output}' at batch {line.batch}, relative error "
                f"{line.relative_error:.1e}).",
                hint=hint,
            )
    for line in lines:
        if line.deviating > share:
            raise StepError(
                f"the exported model differs from its source: output '{line.output}' at batch "
                f"{line.batch} has a relative error of {line.relative_error:.1e}, and "
                f"{parity.tolerance:.0e} is allowed.",
                hint=hint,
            )


def _attempt(run: Callable[[Tensors], Tensors], batch: Tensors, size: int, what: str) -> Tensors:
    try:
        return run(batch)
    except StepError:
        raise
    except Exception as error:
        raise StepError(
            f"{what} fails at batch {size}: {first_line(error)}.",
            hint="a batch size may be baked in: take it from the input, as in x.shape[0]",
        ) from error


def _tiled(tensors: Tensors, count: int) -> Tensors:
    repeats = -(-count // rows(tensors))
    return {name: np.concatenate([array] * repeats)[:count] for name, array in tensors.items()}
