"""The contract of every step that turns a package into another one.

    requires(parent)           cheap, before any heavy import: raise StepError if it cannot apply
    apply(parent, draft)       write serve/<model> and source/ of the draft, nothing elsewhere
    ensures(parent, package)   the claim of the step holds for the sealed result

`run` is the only caller: it copies what stays, finishes and seals, and renames at the very end.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mlserve_cli.errors import StepError
from mlserve_cli.package.draft import Draft, create
from mlserve_cli.package.finish import finish
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.ensemble.declaration import ENGINE, members
from mlserve_cli.runtime.manifest import Manifest, StepRecord
from mlserve_cli.runtime.tensors import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What `apply` did: what the manifest must say differently from the parent's.

    variant: the new variant's name. parameters, seed: go into the lineage.
    libraries: names of the distributions whose versions shaped the result.
    manifest: other fields of the manifest to replace (`finite_inputs`, `tolerance` …).
    evidence: what was measured on the way, to be noted with the package; each has its "kind".
    """

    variant: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    libraries: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    evidence: tuple[Mapping[str, Any], ...] = ()


class Step(Protocol):
    """A step with its parameters set."""

    @property
    def name(self) -> str:
        """How the lineage names it."""
        ...

    def requires(self, parent: Package) -> None:
        """Raise `StepError` if this package cannot take the step."""
        ...

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Write the new model and what further training needs into the draft."""
        ...

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """Raise `StepError` unless the sealed draft is what the step claims."""
        ...


def run(
    step: Step,
    parent: Package,
    target: Path,
    *,
    sample: Iterable[Tensors] | None = None,
    progress: Progress,
    overwrite: bool = False,
) -> Package:
    """Apply `step` to `parent` and put the result at `target`, whole or not at all.

    `sample` yields batches of real rows for the statistics; without it the parent's golden rows
    serve. Raises what the step raises.
    """
    check_parent(parent)
    step.requires(parent)
    with create(target, overwrite=overwrite) as draft:
        for name in ("processing.py", _tokenizer(parent.manifest)):
            if name and (parent.serve / name).is_file():
                shutil.copyfile(parent.serve / name, draft.serve / name)
        change = step.apply(parent, draft, progress)
        manifest = msgspec.structs.replace(
            parent.manifest,
            variant=change.variant,
            lineage=(
                *parent.manifest.lineage,
                StepRecord(
                    step=step.name,
                    parent=parent.manifest.digest,
                    parameters=dict(change.parameters),
                    seed=change.seed,
                    libraries=versions(*change.libraries),
                ),
            ),
            **change.manifest,
        )
        progress.stage("proving the result on real rows")
        sealed = finish(draft, manifest, sample or [golden.read(parent.serve).inputs])
        step.ensures(parent, draft, sealed)
        for measured in change.evidence:
            facts = {key: value for key, value in measured.items() if key != "kind"}
            Package(draft.path, sealed).add_evidence(measured["kind"], facts)
    return Package(target, sealed)


def check_parent(parent: Package) -> None:
    """Refuse an ensemble: its members are what can be changed. Raises `StepError`."""
    if parent.manifest.engine == ENGINE:
        names = ", ".join(members(parent.serve))
        raise StepError(
            f"'{parent.path}' is an ensemble of {names}, and its members are what can be made "
            "smaller.",
            hint="take the step with the members' packages, then export the ensemble again",
        )


def versions(*distributions: str) -> dict[str, str]:
    """Name → installed version, for the lineage."""
    return {name: importlib.metadata.version(name) for name in distributions}


def _tokenizer(manifest: Manifest) -> str | None:
    return getattr(manifest.processing.input, "tokenizer", None)
