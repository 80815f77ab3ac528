"""Who takes part: packages times engines, precisions and threads; and who cannot, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import msgspec

from mlserve_cli.bench.subject import Precision, Setting, labels
from mlserve_cli.package.package import Package

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

_FILES = {"onnxruntime": ".onnx", "openvino": ".onnx", "torch": ".pt2"}
"""Engine → how the files end that it runs."""

_BF16 = frozenset({"avx512_bf16", "amx_bf16", "neon_bf16"})
"""Instructions without which bf16 is computed in float32, or not at all."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured; a report keeps it, so that it can be measured again.

    engines, precisions: empty for what each manifest names. threads: 0 for the physical cores.
    """

    paths: tuple[str, ...]
    engines: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()
    threads: tuple[int, ...] = (0,)
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    seconds: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One of those that are to be timed, under a name of its own.

    origin: the package that was asked for, where it had to be made into another to run at all.
    """

    package: Package
    label: str
    setting: Setting
    origin: Package | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """One that cannot run, and why, for a person. batch: where it is one batch size alone."""

    label: str
    reason: str
    batch: int | None = None


def lineup(
    packages: Sequence[Package],
    *,
    engines: Sequence[str] = (),
    precisions: Sequence[Precision] = (),
    threads: Sequence[int] = (),
    cores: int,
) -> list[Entry]:
    """Every combination; what is empty is what the manifests name, or all `cores`.

    A label says the package and whatever differs between the entries.
    """
    packages = list(packages)
    counts = list(dict.fromkeys(count or cores for count in threads or (0,)))
    found = [
        (label, package, Setting.of(package, engine=engine, precision=precision, threads=count))
        for label, package in zip(labels(packages), packages, strict=True)
        for engine, precision, count in product(engines or (None,), precisions or (None,), counts)
    ]
    several = {
        name: len({getattr(setting, name) for _, _, setting in found}) > 1
        for name in ("engine", "precision", "threads")
    }
    return [
        Entry(package=package, label=_label(label, setting, several), setting=setting)
        for label, package, setting in found
    ]


def why_not(entry: Entry, hardware: Hardware) -> str | None:
    """What rules an entry out before it is loaded; None where nothing does."""
    setting, manifest = entry.setting, entry.package.manifest
    if setting.engine != manifest.engine and manifest.engine == "ensemble":
        return "an ensemble's members run in the engines that they name themselves"
    ends = _FILES.get(setting.engine)
    if ends is not None and not manifest.model.endswith(ends):
        return f"{setting.engine} runs files that end in {ends}, and this is {manifest.model}"
    if setting.precision == "bf16" and setting.precision != manifest.precision:
        if setting.engine in ("onnxruntime", "torch", "ensemble"):
            return (
                f"{setting.engine} computes in what the model's file holds; "
                "'mlserve quantize --method bf16' makes a package in bf16"
            )
        if setting.engine == "openvino" and not _BF16.intersection(hardware.isa):
            return "this CPU has no instructions for bf16"
    return None


def _label(label: str, setting: Setting, several: dict[str, bool]) -> str:
    parts = [label]
    if several["engine"]:
        parts.append(setting.engine)
    if several["precision"]:
        parts.append(setting.precision)
    if several["threads"]:
        parts.append(f"{setting.threads} thread{'s' if setting.threads > 1 else ''}")
    return ", ".join(parts)
