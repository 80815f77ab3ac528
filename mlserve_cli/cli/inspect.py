"""`mlserve inspect`: a package as a person would want to read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import console
from mlserve_cli.package import file_size

if TYPE_CHECKING:
    from rich.table import Table

    from mlserve_cli.package.package import Package


def command(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package to read.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what a package holds: signature, processing, lineage, proofs and measurements."""
    import msgspec

    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime.ensemble.declaration import ENGINE, read

    opened = Package.open(package)
    if as_json:
        document = msgspec.to_builtins(opened.manifest)
        if opened.manifest.engine == ENGINE:
            document["ensemble"] = msgspec.to_builtins(read(opened.model))
        console.print_json(document | {"evidence": opened.evidence()})
        return
    _print(opened)
    console.next_command(f"mlserve up {package}")


def _print(package: Package) -> None:
    from rich.table import Table

    manifest = package.manifest
    out = console.stdout()
    out.print(f"[bold]{manifest.name}[/] {manifest.version}  {manifest.variant}", highlight=False)
    if manifest.description:
        out.print(manifest.description, markup=False)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in facts_of(package):
        facts.add_row(name, value)
    out.print(facts)

    signature = Table("", "name", "type", "shape", title="signature", title_justify="left")
    for side, specs in (("in", manifest.inputs), ("out", manifest.outputs)):
        for spec in specs:
            shape = ", ".join(map(str, spec.shape))
            signature.add_row(side, spec.name, spec.datatype, f"({shape})")
    out.print(signature)

    if manifest.engine == "ensemble":
        out.print(_steps(package))

    lineage = Table("step", "parent", "parameters", "libraries", title="lineage")
    lineage.title_justify = "left"
    for record in manifest.lineage:
        lineage.add_row(
            record.step,
            record.parent[:19] if record.parent else "",
            ", ".join(f"{key}={value}" for key, value in record.parameters.items()),
            ", ".join(f"{key} {value}" for key, value in record.libraries.items()),
        )
    out.print(lineage)
    for measured in package.evidence():
        out.print(_sentence(measured), markup=False)


def _steps(package: Package) -> Table:
    """What an ensemble does, in its order."""
    from rich.table import Table

    from mlserve_cli.runtime.ensemble.declaration import FunctionStep, PackageStep, members, read

    table = Table("step", "runs", "takes", "makes", title="steps", title_justify="left")
    found = members(package.serve)
    for step in read(package.model).steps:
        if isinstance(step, PackageStep):
            member = found[step.member]
            what = f"{member.name} {member.version}, {member.variant} ({member.engine})"
        elif isinstance(step, FunctionStep):
            what = f"{step.function}() of {step.file}"
        else:
            what = step.operation
        table.add_row(step.name, what, ", ".join(step.takes), ", ".join(step.makes))
    return table


def facts_of(package: Package) -> list[tuple[str, str]]:
    """What a manifest says besides signature and lineage, in the order in which it is shown."""
    manifest = package.manifest
    batch = manifest.batch
    proof = (
        f"proven at {', '.join(map(str, batch.sizes))} rows, within {batch.tolerance:.0e}"
        if batch.invariant
        else f"no, served one by one: {batch.reason}"
    )
    processing = manifest.processing
    kinds = [
        type(part).__name__.removesuffix("Input").removesuffix("Output").lower()
        for part in (processing.input, processing.output)
        if part is not None
    ]
    if processing.python is not None:
        kinds.append(processing.python.file)
    facts = [
        ("digest", manifest.digest),
        ("engine", manifest.engine + (" in bf16" if manifest.precision == "bf16" else "")),
        ("size", file_size.text(package.size_bytes)),
        ("processing", " → ".join(kinds) or "none: tensors pass as they are"),
        ("batch-invariant", proof),
    ]
    if manifest.labels:
        shown = ", ".join(manifest.labels[:10])
        facts.append(("labels", shown + (" …" if len(manifest.labels) > 10 else "")))
    if manifest.instruction_sets:
        facts.append(("proven on", ", ".join(manifest.instruction_sets).replace("|", " or ")))
    if manifest.licence:
        facts.append(("licence", manifest.licence))
    return facts


def _sentence(record: dict[str, Any]) -> str:
    """One line of evidence: its summary, else its figures that are plain values."""
    kind = record.get("kind", "evidence")
    if "summary" in record:
        return f"{kind}: {record['summary']}"
    plain = {
        key: value
        for key, value in record.items()
        if key not in ("kind", "digest", "schema")
        and not isinstance(value, (dict, list, type(None)))
    }
    figures = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in plain.items()
    )
    return f"{kind}: {figures}"
