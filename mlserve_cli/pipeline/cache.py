"""A step's result is kept under the hash of all that decides it.

That is: its parent's digest, its parameters, the contents of the files that these name, the rows
it is made with and the versions of the libraries that make it. The definition that a training step
reads is in its parent's digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlserve_cli import __version__
from mlserve_cli.errors import MlserveError
from mlserve_cli.package import contents
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.search.candidate import StepChoice

_LIBRARIES = (
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torch",
    "torch-pruning",
    "numpy",
    "scikit-learn",
    "skl2onnx",
    "nncf",
    "neural-compressor-pt",
)

FILES = ("teacher", "student", "train_data")
"""Parameters that name a package, a data file, a folder of pictures, or a person's code."""


def key(parent: Package, choice: StepChoice, rows: Iterable[Tensors] | None) -> str:
    """The name under which the result of a step is kept: 64 hexadecimal digits."""
    hashed = hashlib.sha256()
    facts = {
        "parent": parent.manifest.digest,
        "step": choice.document(),
        "files": {name: contents.digest(text) for name, text in _files(choice)},
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "mlserve": __version__,
    }
    hashed.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for batch in rows or ():
        _add(hashed, batch)
    return hashed.hexdigest()


def repeats(choice: StepChoice) -> bool:
    """Whether all that decides the step is in its key: no code of a person's is named, which may
    read files of its own."""
    return not any(contents.is_code(text) for _, text in _files(choice))


def find(place: Path) -> Package | None:
    """The package that lies there, or None where there is none, or a damaged one."""
    try:
        return Package.open(place)
    except MlserveError:
        return None


def _files(choice: StepChoice) -> list[tuple[str, str]]:
    named = [(name, choice.parameters.get(name)) for name in FILES]
    return [(name, str(value)) for name, value in named if value is not None]


def _add(hashed: Any, batch: Tensors) -> None:
    for name, array in sorted(batch.items()):
        hashed.update(f"{name} {array.dtype} {array.shape}".encode())
        if array.dtype.hasobject:
            hashed.update(repr(array.tolist()).encode())
        else:
            hashed.update(array.tobytes())


def _version(distribution: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
