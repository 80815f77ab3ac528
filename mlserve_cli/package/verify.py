"""The checks of a package, run again: is it whole, does it load, does it still say the same?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlserve_cli.errors import MlserveError, first_line
from mlserve_cli.package import invariance, padding
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.tensors import rows


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was asked, whether it held, and the figure or the reason."""

    name: str
    passed: bool
    detail: str


def verify(path: Path) -> Iterator[Check]:
    """Yield each check of the package at `path` as it is done; the first failure ends it."""
    try:
        package = Package.open(path)
    except MlserveError as error:
        yield Check("files", False, _said(error))
        return
    manifest = package.manifest
    yield Check("files", True, f"{len(manifest.files)} files, {manifest.digest[:19]}")
    try:
        engine = package.engine()
    except MlserveError as error:
        yield Check("engine", False, _said(error))
        return
    try:
        if engine.inputs != manifest.inputs or engine.outputs != manifest.outputs:
            yield Check("signature", False, "the model's inputs and outputs are not the manifest's")
            return
        yield Check("signature", True, f"{len(engine.inputs)} in, {len(engine.outputs)} out")
        proof = golden.read(package.serve)
        count = rows(proof.inputs)
        difference = 0.0
        step = manifest.fixed_batch or manifest.batch.max_batch or count
        for start in range(0, count, step):
            found = engine.run(
                {
                    name: array[start : start + step] if array.ndim else array
                    for name, array in proof.inputs.items()
                }
            )
            for name, expected in proof.outputs.items():
                part = expected[start : start + step] if expected.ndim else expected
                difference = max(difference, golden.relative_difference(part, found[name]))
        yield Check(
            "golden predictions",
            difference <= manifest.tolerance,
            f"{count} rows, largest relative difference {difference:.1e} "
            f"(allowed {manifest.tolerance:.0e})",
        )
        if manifest.batch.invariant:
            again = invariance.prove(engine, proof.inputs, tolerance=manifest.batch.tolerance)
            yield Check(
                "batch-invariance",
                again.invariant,
                again.reason or f"batches of {', '.join(map(str, again.sizes))}",
            )
        else:
            yield Check("batch-invariance", True, f"served one by one: {manifest.batch.reason}")
        if manifest.padding is not None and manifest.padding.harmless:
            padded = padding.prove(engine, proof.inputs, tolerance=manifest.padding.tolerance)
            harmless = padded is not None and padded.harmless
            yield Check(
                "padding",
                harmless,
                f"harmless up to {manifest.padding.largest}"
                if harmless or padded is None
                else str(padded.reason),
            )
    except MlserveError as error:
        yield Check("golden predictions", False, _said(error))
    except Exception as error:  # an engine raises its library's own errors
        yield Check("golden predictions", False, f"the model fails: {first_line(error)}")
    finally:
        engine.close()


def _said(error: MlserveError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
