"""The escape hatch: a package's own `processing.py`, and the check that it can live alone.

    preprocess(rows)      a list of payloads (parsed JSON, or bytes) → dict of arrays by input
    postprocess(outputs)  dict of arrays by output → a list of JSON values, one a row
    EXAMPLE               a payload that works, for the curl line and the page      (optional)

Either function may be missing; what the manifest declares, or nothing, then stands in its place.
A `ValueError` that they raise is told to the client as status 400; all else is a server error.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .. import json_text
from ..errors import InferenceFailed, InvalidRequest, PackageError
from ..manifest import Manifest
from ..tensors import Tensors, rows
from . import payload
from .processor import Payload, Reader, Writer

BLOCKED = ("torch", "torchvision", "tensorflow", "jax", "onnx", "sklearn", "transformers")
"""What trained the model is not there where it is served, unless a requirement names it."""

_CHECK_S = 60  # imports alone; a slow disk and a large library fit

_ALONE = """
import importlib.abc, importlib.util, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"it imports '{name}', which a server does not have")

path, wanted, *BLOCKED = sys.argv[1:]
sys.meta_path.insert(0, Blocked())
spec = importlib.util.spec_from_file_location("processing", path)
try:
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
except BaseException as error:
    sys.exit(f"{type(error).__name__}: {error}")
for name in filter(None, wanted.split(",")):
    if not callable(getattr(module, name, None)):
        sys.exit(f"it has no function {name}()")
either = ("preprocess", "postprocess")
if not wanted and not any(callable(getattr(module, name, None)) for name in either):
    sys.exit("it has neither preprocess(rows) nor postprocess(outputs)")
"""


class UserProcessing:
    """The functions of `serve/processing.py`, each in place of what would else be done."""

    def __init__(self, manifest: Manifest, file: Path, reader: Reader, writer: Writer) -> None:
        self._model = manifest.name
        self._specs = {spec.name: spec for spec in manifest.inputs}
        module = load_module(file)
        self._preprocess = getattr(module, "preprocess", None)
        self._postprocess = getattr(module, "postprocess", None)
        self._example: Any = getattr(module, "EXAMPLE", None)
        self.reader = reader
        self.writer = writer

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """Parsed JSON rows, or the whole body as bytes."""
        if self._preprocess is None:
            return self.reader.rows(body, content_type)
        if payload.kind_of(body, content_type, otherwise="file") == "json":
            return payload.json_rows(body)
        return [body]

    def form(self, fields: dict[str, str | bytes]) -> list[Any]:
        """One row by the fields' names: text, and the bytes of files."""
        if self._preprocess is None:
            return self.reader.form(fields)
        return [fields]

    def tensors(self, rows: list[Any]) -> Tensors:
        """What preprocess makes of the rows, in the signature's datatypes."""
        if self._preprocess is None:
            return self.reader.tensors(rows)
        found = _call(self._preprocess, rows)
        if not isinstance(found, dict):
            raise InferenceFailed(
                f"preprocess() of '{self._model}' returned {type(found).__name__}, not a dict"
            )
        return {name: self._array(name, value) for name, value in found.items()}

    def answers(self, outputs: Tensors, payloads: list[Any] | None = None) -> list[Any]:
        """What postprocess makes of the outputs."""
        if self._postprocess is None:
            return self.writer.answers(outputs, payloads)
        found = list(_call(self._postprocess, outputs))
        if len(found) != rows(outputs):
            raise InferenceFailed(
                f"postprocess() of '{self._model}' returned {len(found)} answers "
                f"for {rows(outputs)} rows"
            )
        return found

    def example(self, inputs: Tensors) -> Payload | None:
        """EXAMPLE; no one but the user knows what else preprocess takes."""
        if self._preprocess is None:
            return self.reader.example(inputs)
        if self._example is None:
            return None
        if isinstance(self._example, bytes):
            return Payload(self._example, "application/octet-stream")
        return Payload(json_text.encode(self._example), "application/json")

    def _array(self, name: str, value: Any) -> np.ndarray[Any, Any]:
        array = np.asarray(value)
        spec = self._specs.get(name)
        if spec is None or array.dtype == spec.dtype:
            return array  # a wrong name is told by the check of the signature
        if spec.datatype == "BYTES":
            flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
            raw: np.ndarray[Any, Any] = np.empty(len(flat), dtype=np.object_)
            raw[:] = flat
            return raw.reshape(array.shape)
        return array.astype(spec.dtype)


def check_alone(
    path: Path, requirements: Sequence[str] = (), *, functions: Sequence[str] = ()
) -> None:
    """Import `path` in a process of its own where training libraries cannot be imported.

    Raises `PackageError` with what it raised. `requirements` are lines of a requirements file;
    what they name is not blocked. functions: that it must have; else one of processing.py's.
    """
    named = {_project(line) for line in requirements}
    blocked = [name for name in BLOCKED if name not in named]
    if "scikit-learn" in named:
        blocked.remove("sklearn")
    wanted = ",".join(functions)
    command = [sys.executable, "-I", "-B", "-c", _ALONE, str(path.resolve()), wanted, *blocked]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter on the user's own file
            command, capture_output=True, text=True, timeout=_CHECK_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PackageError(f"importing '{path}' takes longer than {_CHECK_S} s.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise PackageError(
            f"'{path}' cannot be imported alone: {lines[-1]}.",
            hint="it runs in the server, so it may import only numpy and what its requirements "
            "name",
        )


class _SourceOnly(importlib.abc.SourceLoader):
    """Compiles the file each time: a cache beside it would be code that no manifest lists."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def get_filename(self, fullname: str) -> str:
        """What tracebacks show."""
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        """The text."""
        return Path(str(path)).read_bytes()


def load_module(path: Path) -> ModuleType:
    """Import a file of a package as a module of its own. Raises `PackageError`."""
    # Named by its place: two packages' processing.py live side by side.
    name = "mlserve_processing_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_loader(name, _SourceOnly(path))
    if spec is None or spec.loader is None or not path.is_file():
        raise PackageError(f"the file '{path}' is missing.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise PackageError(
            f"'{path}' cannot be imported: {type(error).__name__}: {error}.",
            hint="install what its requirements name",
        ) from error
    return module


def _call(function: Any, argument: Any) -> Any:
    try:
        return function(argument)
    except ValueError as error:
        raise InvalidRequest(f"the processing refused the request: {error}") from error


def _project(line: str) -> str:
    """The name at the start of a requirement line, normalized as package indexes do."""
    name = line.split("#")[0].strip()
    for mark in "<>=!~[;@ ":
        name = name.partition(mark)[0]
    return name.lower().replace("_", "-").replace(".", "-")
