"""Copy a package into a repository that lies on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlserve_cli.errors import PackageError
from mlserve_cli.package.draft import writing
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import delivery
from mlserve_cli.runtime.delivery import Delivered
from mlserve_cli.runtime.manifest import EVIDENCE, MANIFEST, SERVE


def deliver(package: Package, repository: Path, *, replace: bool = False) -> Delivered:
    """Copy what a server needs of `package` to its place: the manifest, `serve/`, the evidence.

    Raises `PackageError` when another package of that name and version is there and `replace` is
    off, or the folder cannot be written.
    """
    if not repository.is_dir():
        raise PackageError(
            f"the repository '{repository}' is no folder on this machine.",
            hint="say with --repository where it is mounted here, or send it with --upload",
        )
    target, same = delivery.target_of(repository, package.manifest, replace=replace)
    if same:
        return Delivered(target, repository, is_new=False)
    with writing(target), delivery.draft(repository) as hidden:
        folder = hidden / "package"
        folder.mkdir()
        shutil.copy2(package.path / MANIFEST, folder / MANIFEST)
        shutil.copytree(package.serve, folder / SERVE)
        if (package.path / EVIDENCE).is_dir():
            shutil.copytree(package.path / EVIDENCE, folder / EVIDENCE)
        return delivery.put(folder, repository, replace=replace)
