"""Whether two packages answer the same questions in the same form, and if not, what differs."""

from __future__ import annotations

from mlserve_cli.package.package import Package
from mlserve_cli.runtime.tensors import TensorSpec


def difference(first: Package, second: Package, names: tuple[str, str]) -> str | None:
    """A sentence naming the first difference of their inputs, outputs or labels; None: there is
    none that matters.

    A batch of any size beside a fixed one is no difference, nor what a free dimension is called,
    nor one that is free in the one and fixed in the other: the rows decide whether both take them.
    names: how the sentence calls the two.
    """
    for side in ("input", "output"):
        specs = [
            {spec.name: spec for spec in getattr(package.manifest, side + "s")}
            for package in (first, second)
        ]
        for name in sorted(specs[0].keys() ^ specs[1].keys()):
            has, lacks = names if name in specs[0] else names[::-1]
            return f"'{has}' has the {side} '{name}', and '{lacks}' has none of that name."
        for name, spec in specs[0].items():
            if not _alike(spec, specs[1][name]):
                return (
                    f"{side} '{name}' is {_shown(spec)} in '{names[0]}' and "
                    f"{_shown(specs[1][name])} in '{names[1]}'."
                )
    return _other_labels(first.manifest.labels, second.manifest.labels, names)


def _alike(first: TensorSpec, second: TensorSpec) -> bool:
    if first.datatype != second.datatype or len(first.shape) != len(second.shape):
        return False
    # The first dimension counts rows.
    pairs = zip(first.shape[1:], second.shape[1:], strict=True)
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in pairs)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype} ({', '.join(map(str, spec.shape))})"


def _other_labels(
    first: tuple[str, ...], second: tuple[str, ...], names: tuple[str, str]
) -> str | None:
    if not first or not second or first == second:
        return None
    if len(first) != len(second):
        return f"'{names[0]}' has {len(first)} labels and '{names[1]}' {len(second)}."
    number = next(n for n, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    return (
        f"class {number} is '{first[number]}' in '{names[0]}' and '{second[number]}' in "
        f"'{names[1]}'."
    )
