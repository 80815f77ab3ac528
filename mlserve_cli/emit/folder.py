"""A server folder, written whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mlserve_cli.emit import example, requirements, runtime_copy, words
from mlserve_cli.errors import PackageError
from mlserve_cli.package import templates
from mlserve_cli.package.draft import flush, hidden_beside, move, writing
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime import hardware, sizing
from mlserve_cli.runtime.ensemble import declaration as ensembles
from mlserve_cli.runtime.manifest import MANIFEST, SERVE, Manifest
from mlserve_cli.runtime.processing.declaration import Processing
from mlserve_cli.runtime.settings import Settings, to_toml

_TEMPLATES = ("server.py", "client.py", "Dockerfile", "README.md")
_RENAMED = {"dockerignore": ".dockerignore"}  # tools that pack a wheel pass over hidden files


@dataclass(frozen=True, slots=True)
class Emitted:
    """A server folder that was written, and the settings in it."""

    path: Path
    packages: tuple[Package, ...]
    settings: Settings

    def document(self) -> dict[str, Any]:
        """The facts for `--json`."""
        return {
            "path": str(self.path),
            "models": [
                {
                    "name": package.manifest.name,
                    "version": package.manifest.version,
                    "variant": package.manifest.variant,
                    "digest": package.manifest.digest,
                }
                for package in self.packages
            ],
            "sizing": msgspec.to_builtins(self.settings.sizing),
            "runtime": runtime_copy.version(self.path / runtime_copy.NAME),
        }


def emit(
    packages: Sequence[Path], target: Path, *, overwrite: bool = False, progress: Progress
) -> Emitted:
    """Write a server folder for the packages to `target`.

    Raises `PackageError` when a package is refused, two have one name and version, or the place
    is taken; `MissingExtra` when a model needs a library that is not installed here.
    """
    _check_target(target, overwrite=overwrite)
    opened = _open(packages)
    pins = requirements.pinned(*needs(opened))
    settings = _settings(opened, progress)
    progress.stage("writing the folder")
    with writing(target), hidden_beside(target) as hidden:
        hidden.mkdir(parents=True)
        for package in opened:
            _copy_served(package, hidden / settings.models)
        runtime_copy.write(hidden)
        (hidden / "requirements.txt").write_text(pins, encoding="utf-8")
        (hidden / "server.toml").write_text(to_toml(settings), encoding="utf-8")
        examples = example.write(opened, hidden)
        name = target.resolve().name
        _fill_templates(hidden, words.fill(opened, settings, examples, name=name))
        flush(hidden)
        move(hidden, target)
    return Emitted(target, opened, settings)


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not (target.exists() or target.is_symlink()):
        return
    if not overwrite:
        raise PackageError(
            f"'{target}' exists already.",
            hint="choose another place; or --refresh DIR to renew its mlserve_runtime/ only, or "
            "--force to replace all of it",
        )
    ours = (target / "server.py").is_file() and (target / runtime_copy.NAME).is_dir()
    if target.is_symlink() or not (ours or (target.is_dir() and not any(target.iterdir()))):
        raise PackageError(
            f"'{target}' is not a server folder, so --force does not replace it.",
            hint="choose another place",
        )


def _open(paths: Sequence[Path]) -> tuple[Package, ...]:
    opened: dict[tuple[str, str], Package] = {}
    for path in paths:
        package = Package.open(path)
        key = (package.manifest.name, package.manifest.version)
        if key in opened:
            raise PackageError(
                f"'{opened[key].path}' and '{path}' are both '{key[0]}' version '{key[1]}'.",
                hint="one folder serves one package of a name and version; make one of them "
                "again with another --version",
            )
        opened[key] = package
    return tuple(opened.values())


def needs(packages: Sequence[Package]) -> tuple[list[Manifest], list[str]]:
    """The manifests whose engines and processing are run here, and what functions require."""
    manifests: list[Manifest] = []
    required: list[str] = []
    for package in packages:
        for path, manifest in ensembles.below(package.path, package.manifest):
            outer = manifest is package.manifest
            # Pictures and texts come in once, before the first member.
            manifests.append(
                manifest if outer else msgspec.structs.replace(manifest, processing=Processing())
            )
            if manifest.engine == ensembles.ENGINE:
                required += ensembles.read(path / SERVE / manifest.model).requirements
    return manifests, required


def _settings(packages: Sequence[Package], progress: Progress) -> Settings:
    """Settings with a sizing for each model, measured here; of two versions, the last one's."""
    machine = hardware.detect()
    measured = {}
    for package in packages:
        manifest = package.manifest
        progress.stage(f"measuring {manifest.name} {manifest.version}")
        measured[manifest.name] = sizing.measure(package.path, manifest, machine)
    return Settings(sizing=measured)


def _copy_served(package: Package, models: Path) -> None:
    manifest = package.manifest
    place = models / manifest.name / manifest.version
    place.mkdir(parents=True)
    shutil.copyfile(package.path / MANIFEST, place / MANIFEST)
    # What the manifest lists and nothing that came to lie beside it.
    for name in manifest.files:
        if name.startswith(SERVE + "/"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.path / name, place / name)


def _fill_templates(folder: Path, placeholders: dict[str, str]) -> None:
    """Copy the templates; each placeholder in them becomes what it stands for."""
    source = templates.folder("server")
    anyone = re.compile("|".join(map(re.escape, placeholders)))
    for name in (*_TEMPLATES, *_RENAMED):
        text = (source / name).read_text(encoding="utf-8")
        # In one pass: what is put in is never looked at again.
        text = anyone.sub(lambda found: placeholders[found.group()], text)
        (folder / _RENAMED.get(name, name)).write_text(text, encoding="utf-8")
