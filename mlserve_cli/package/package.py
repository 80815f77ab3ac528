"""An opened package: its manifest, its paths, its engine, its evidence."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve_cli.errors import PackageError, first_line
from mlserve_cli.package.draft import hidden_beside, writing
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import engines
from mlserve_cli.runtime import manifest as manifests
from mlserve_cli.runtime.engines import Engine, EngineOptions
from mlserve_cli.runtime.manifest import EVIDENCE, SERVE, SOURCE, Manifest


@dataclass(frozen=True, slots=True)
class Package:
    """A package on disk whose manifest and served files were found whole."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path) -> Package:
        """Open the package at `path` and check its manifest and every file that it lists.

        Raises `PackageError` naming what is missing, damaged, changed, or of a newer schema.
        """
        manifest = manifests.read(path)
        manifests.verify_files(path, manifest)
        manifests.verify_files(path, manifest, folder=SOURCE)
        return cls(path, manifest)

    @property
    def model(self) -> Path:
        """The file that the engine loads."""
        return self.path / SERVE / self.manifest.model

    @property
    def serve(self) -> Path:
        """The folder that a server needs."""
        return self.path / SERVE

    @property
    def source(self) -> Path:
        """The folder that further training needs; it may be missing."""
        return self.path / SOURCE

    @property
    def label(self) -> str:
        """How tables name it: the folder's name."""
        return self.path.name

    @property
    def size_bytes(self) -> int:
        """What a server loads: the model's file and its external data."""
        return self.manifest.weight_bytes

    def engine(self, options: EngineOptions | None = None) -> Engine:
        """Load the model with the engine that the manifest names."""
        return engines.open_package(self.path, self.manifest, options)

    def add_evidence(self, kind: str, facts: dict[str, Any]) -> Path:
        """Append one measurement as `evidence/<kind>-<id>.json`; nothing is ever overwritten.

        Raises `PackageError` when it cannot be written.
        """
        folder = self.path / EVIDENCE
        target = folder / f"{kind}-{secrets.token_hex(4)}.json"
        record = {"kind": kind, "digest": self.manifest.digest, **facts}
        with writing(target), hidden_beside(target) as hidden:
            folder.mkdir(exist_ok=True)
            hidden.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            hidden.replace(target)
        return target

    def keep_evidence(self, kind: str, facts: dict[str, Any], progress: Progress) -> None:
        """Append a measurement where the disk allows it; it is worth showing in any case."""
        try:
            self.add_evidence(kind, facts)
        except PackageError as error:
            progress.say(f"the measurement is shown, and not kept: {error.message}")

    def evidence(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The measurements so far, oldest first; of one kind, or all."""
        pattern = f"{kind}-*.json" if kind else "*.json"
        files = sorted(
            (self.path / EVIDENCE).glob(pattern), key=lambda file: file.stat().st_mtime_ns
        )
        return [_record(file) for file in files]


def _record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageError(
            f"the evidence '{file}' cannot be read: {first_line(error)}.",
            hint="delete it, or copy the package again",
        ) from error
    if not isinstance(record, dict):
        raise PackageError(
            f"the evidence '{file}' holds no record.",
            hint="delete it, or copy the package again",
        )
    return record
