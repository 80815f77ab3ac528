"""How two packages are related, by their lineages."""

from __future__ import annotations

from mlserve_cli.package.package import Package


def kinship(first: Package, second: Package, names: tuple[str, str]) -> str:
    """A sentence: which was made from which by what, or where their ways parted."""
    if first.manifest.digest == second.manifest.digest:
        return f"'{names[0]}' and '{names[1]}' are the same package"
    for elder, younger, (old, young) in (
        (first, second, names),
        (second, first, names[::-1]),
    ):
        steps = _since(elder, younger)
        if steps:
            return f"'{young}' was made from '{old}': {' → '.join(steps)}"
    # Two exports may read alike and be of different models: only a parent's digest is proof.
    if _ancestors(first) & _ancestors(second):
        return f"'{names[0]}' and '{names[1]}' come from one package"
    return f"nothing says that '{names[0]}' and '{names[1]}' are related"


def lineage(package: Package) -> str:
    """The steps that made a package: "export → quantize"."""
    return " → ".join(record.step for record in package.manifest.lineage) or "unknown"


def _ancestors(package: Package) -> set[str]:
    return {record.parent for record in package.manifest.lineage if record.parent is not None}


def _since(elder: Package, younger: Package) -> list[str]:
    """The steps that lead from `elder` to `younger`; none where they do not."""
    records = younger.manifest.lineage
    for number, record in enumerate(records):
        if record.parent is not None and record.parent == elder.manifest.digest:
            return [step.step for step in records[number:]]
    return []
