"""How a comparison is written: tables for a person, Markdown for a pull request, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlserve_cli.cli import console, verdict
from mlserve_cli.cli.inspect import facts_of

if TYPE_CHECKING:
    from rich.table import Table

    from mlserve_cli.package.package import Package
    from mlserve_cli.pipeline.comparison import Comparison


def document(found: Comparison) -> dict[str, Any]:
    """What `--json` prints: the verdict's figures, of `first` and `second` what they are."""
    first, second = found.verdict.parent, found.verdict.package
    return {
        **verdict.document(found.verdict),
        "first": _described(first),
        "second": _described(second),
        "kinship": found.kinship,
        "source": found.source,
        "decisions": found.disagreement.facts() if found.disagreement else None,
    }


def show(found: Comparison) -> None:
    """Print it for a person."""
    from rich.table import Table

    out = console.stdout()
    table = Table("", *found.names)
    for row in points(found):
        table.add_row(*row)
    out.print(table)
    for sentence in sentences(found):
        out.print(sentence, markup=False, highlight=False)
    if found.disagreement is not None and found.disagreement.rows:
        out.print(_rows(found))


def markdown(found: Comparison) -> str:
    """A summary that a pull request shows as it is."""
    refusals = found.verdict.refusals
    lines = [
        f"### {_cell(found.names[0])} → {_cell(found.names[1])}",
        "",
        "**Does not pass**: " + "; ".join(refusals) if refusals else "**Passes the gate.**",
        "",
        *_markdown_table(("", *found.names), points(found)),
        "",
        *(f"- {sentence}" for sentence in sentences(found)),
    ]
    if found.disagreement is not None and found.disagreement.rows:
        heading, body = _row_table(found)
        summary = "Rows with different decisions"
        lines += ["", f"<details><summary>{summary}</summary>", ""]
        lines += [*_markdown_table(heading, body), "", "</details>"]
    return "\n".join(lines) + "\n"


def points(found: Comparison) -> list[tuple[str, str, str]]:
    """What stands side by side: (what, first, second)."""
    first, second = found.verdict.parent, found.verdict.package
    sides = [
        {**_signature(side), "lineage": _lineage(side), **dict(facts_of(side))}
        for side in (first, second)
    ]
    measured = verdict.rows(found.verdict)
    shown = {name for name, _, _ in measured}
    # "labels" and the like stand in one of them only, where the other has none.
    names = [name for name in {**sides[0], **sides[1]} if name not in shown]
    return measured + [(name, sides[0].get(name, "–"), sides[1].get(name, "–")) for name in names]


def sentences(found: Comparison) -> list[str]:
    """How they are related, what was lost, how fast they are, and where they decide otherwise."""
    said = [found.kinship, f"judged on {found.source}", *verdict.sentences(found.verdict)]
    if found.verdict.drop.p_value is not None:
        said.insert(4, f"McNemar's exact test: p = {found.verdict.drop.p_value:.3g}")
    if found.disagreement is not None:
        said.append(found.disagreement.sentence())
    elif found.verdict.after.neighbours is None:
        said.append("their outputs decide nothing about a row that could be compared")
    return said


def _described(package: Package) -> dict[str, Any]:
    import msgspec

    manifest = package.manifest
    return {
        "package": str(package.path),
        "digest": manifest.digest,
        "variant": manifest.variant,
        "engine": manifest.engine,
        "size_bytes": package.size_bytes,
        "inputs": msgspec.to_builtins(manifest.inputs),
        "outputs": msgspec.to_builtins(manifest.outputs),
        "batch": msgspec.to_builtins(manifest.batch),
        "instruction_sets": list(manifest.instruction_sets),
        "lineage": msgspec.to_builtins(manifest.lineage),
    }


def _signature(package: Package) -> dict[str, str]:
    return {
        side: ", ".join(
            f"{spec.name} {spec.datatype} ({', '.join(map(str, spec.shape))})" for spec in specs
        )
        for side, specs in (("in", package.manifest.inputs), ("out", package.manifest.outputs))
    }


def _lineage(package: Package) -> str:
    from mlserve_cli.package.kinship import lineage

    return lineage(package)


def _rows(found: Comparison) -> Table:
    from rich.table import Table
    from rich.text import Text

    heading, body = _row_table(found)
    table = Table(*heading, title="different decisions", title_justify="left")
    for row in body:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _row_table(found: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The rows with different decisions; the target stands there where any is known."""
    rows = found.disagreement.rows if found.disagreement else ()
    known = any(row.target is not None for row in rows)
    heading = ("row", *(("target",) if known else ()), *found.names)
    body = [
        (
            str(row.row),
            *((_shown(row.target),) if known else ()),
            _shown(row.first),
            _shown(row.second),
        )
        for row in rows
    ]
    return heading, body


def _shown(answer: Any) -> str:
    """An answer on one line: a class with its score, a number with four digits."""
    if isinstance(answer, dict) and "label" in answer and "score" in answer:
        score = answer["score"]
        return f"{answer['label']} ({score:.3f})" if isinstance(score, float) else str(answer)
    if isinstance(answer, dict) and len(answer) == 1:
        return _shown(next(iter(answer.values())))
    text = f"{answer:.4g}" if isinstance(answer, float) else str(answer)
    return text if len(text) <= 60 else text[:59] + "…"


def _markdown_table(heading: tuple[str, ...], body: list[Any]) -> list[str]:
    lines = ["| " + " | ".join(map(_cell, heading)) + " |", "|---" * len(heading) + "|"]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in body]


def _cell(text: str) -> str:
    """What a package says of itself cannot become markup, nor end its cell."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
