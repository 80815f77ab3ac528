"""`mlserve export`: a trained model → a package, compared with its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlserve_cli.cli import console
from mlserve_cli.package import file_size

if TYPE_CHECKING:
    from mlserve_cli.package.package import Package


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A model definition (.py), an .onnx or .pt2 file, an ensemble (.toml), an "
            "estimator's file (.json, .ubj, .txt, .cbm, .skops, .joblib, .pkl), module:object, a "
            "Hugging Face folder, or a TensorFlow SavedModel or Keras file.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PKG", help="Where the package goes.")
    ],
    name: Annotated[
        str | None, typer.Option(help="The model's name; else NAME, the folder or the file.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="The model's version; else VERSION, or 1.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Real rows to prove it with: a folder, .npz, .csv, .json, .jsonl, .parquet "
            "or file.py:function.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            help="What will run it: onnxruntime (the default), openvino, torch, torch-aoti "
            "(compiled for this machine), or your own package.module:Class.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="What torch-aoti compiles for: cpu or cuda.")
    ] = "cpu",
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Load a pickle (.joblib, .pkl) or unknown types of a .skops file, which runs "
            "whatever its author wrote.",
        ),
    ] = False,
    fuse: Annotated[
        bool,
        typer.Option(
            "--fuse",
            help="Make attention one operator of ONNX Runtime's, if that is no slower; no "
            "other engine has it.",
        ),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A state dict for the definition's network: .safetensors, .pt or .pth.",
        ),
    ] = None,
    tf_python: Annotated[
        str | None,
        typer.Option(
            metavar="PYTHON",
            help="A Python that has TensorFlow and tf2onnx; else MLSERVE_TF_PYTHON.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a package that is there already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a package of a model and check that it answers as its source does."""
    from mlserve_cli.export.export import export

    with console.progress() as progress:
        package = export(
            source,
            output,
            name=name,
            version=version,
            calibration=calibration,
            progress=progress,
            overwrite=force,
            engine=engine,
            device=device,
            trust=trust,
            fuse=fuse,
            weights=weights,
            tf_python=tf_python,
        )
    facts = package.evidence("export")[-1]
    if as_json:
        console.print_json(_document(package, facts))
    else:
        _print(package, facts)
    proven = (package.source / "definition.py").is_file() and package.manifest.sample == "real"
    console.next_command(f"mlserve {'evaluate' if proven else 'up'} {output}")


def _document(package: Package, facts: dict[str, Any]) -> dict[str, Any]:
    import msgspec

    manifest = package.manifest
    return {
        "package": str(package.path),
        "name": manifest.name,
        "version": manifest.version,
        "variant": manifest.variant,
        "digest": manifest.digest,
        "size_bytes": package.size_bytes,
        "sample": manifest.sample,
        "batch": msgspec.to_builtins(manifest.batch),
        "parity": facts,
    }


def _print(package: Package, facts: dict[str, Any]) -> None:
    from rich.table import Table

    out = console.stdout()
    if "lines" in facts:
        table = Table("batch", "output", "rows", "relative error", "same decisions")
        table.title, table.title_justify = f"against the {facts['source']} model", "left"
        for line in facts["lines"]:
            agreement = line["agreement"]
            table.add_row(
                str(line["batch"]),
                line["output"],
                str(line["rows"]),
                f"{line['relative_error']:.1e}",
                "" if agreement is None else f"{agreement:.2%}",
            )
        out.print(table)
    if facts.get("on_edge"):
        console.note(
            f"{facts['on_edge']:.1%} of the rows lie so near a split that float32 takes their side"
        )
    edges = facts.get("edges")
    if edges:
        near = "beside and at" if edges["exact"] else "close to"
        out.print(
            f"{edges['rows']:,} rows {near} {edges['splits']:,} splits of its trees: "
            f"{edges['changed']:.2%} of the decisions and {edges['deviating']:.2%} of the answers "
            "differ",
            markup=False,
        )
    if facts.get("tiled"):
        console.note("the sample has fewer rows than the largest batch, so it was repeated")
    manifest = package.manifest
    rows = "real rows" if manifest.sample == "real" else "made-up rows"
    proof = (
        f"batch-invariant at {', '.join(map(str, manifest.batch.sizes))} {rows}"
        if manifest.batch.invariant
        else f"served one by one: {manifest.batch.reason}"
    )
    out.print(
        f"{package.path}: {manifest.name} {manifest.version}, {manifest.variant}, "
        f"{file_size.text(package.size_bytes)}, {proof}",
        markup=False,
    )
