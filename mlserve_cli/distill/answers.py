"""What a teacher answered before, on disk: a row is asked once, whatever the epoch and the order.

    $XDG_CACHE_HOME/mlserve/answers/<key>/<token>.rows.npy      (n, 2) uint64: hashes of rows
                                          <token>.answers.npy   (n, …) float32: what was answered

The key names the package by its digest, its engine with the libraries' versions, and its
precision; a row's hash covers the bytes,
the dtype and the shape of all its inputs, filled-up ends left away where padding is harmless.
Files are mapped, not read: what stays in memory is 16 bytes a row and their index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mlserve_cli.runtime import engines, hardware
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.padding import axes
from mlserve_cli.runtime.tensors import Array, Tensors, rows

CHUNK = 4096
"""Rows of one file: few files, and not much is lost when the process is killed."""

LIMIT_BYTES = 2 << 30
"""Answers kept of one teacher; more are asked again."""

KEPT = 10
"""Teachers whose answers are kept; the oldest go."""

Key = tuple[int, int]


class Answers:
    """The answers of one teacher, found by row.

    A folder that cannot be written is no error: `trouble` says why nothing is kept.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._root = folder or Path(home) / "mlserve" / "answers"
        self._folder = self._root / key
        self._chunks: list[Array] = []
        self._places: dict[Key, tuple[int, int]] = {}  # row → its file and the place in it
        self._waiting: dict[Key, Array] = {}
        self._bytes = 0
        self.trouble: str | None = None
        self._open()

    def __len__(self) -> int:
        return len(self._places) + len(self._waiting)

    def find(self, keys: list[Key]) -> list[Array | None]:
        """The answer of each row, None where it was never asked."""
        found: list[Array | None] = []
        for key in keys:
            place = self._places.get(key)
            if place is None:
                found.append(self._waiting.get(key))
            else:
                found.append(self._chunks[place[0]][place[1]])
        return found

    def keep(self, keys: list[Key], answers: Array) -> None:
        """Keep what was answered, (rows, …) float32."""
        if self.trouble is not None or self._bytes >= LIMIT_BYTES:
            return
        for key, answer in zip(keys, answers, strict=True):
            self._waiting.setdefault(key, answer)
        if len(self._waiting) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what waits; a file is there whole or not at all."""
        if not self._waiting or self.trouble is not None:
            return
        waiting, self._waiting = self._waiting, {}
        by_shape: dict[tuple[int, ...], list[Key]] = {}
        for key, answer in waiting.items():
            by_shape.setdefault(answer.shape, []).append(key)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for keys in by_shape.values():
                token = secrets.token_hex(8)
                self._write(f"{token}.answers.npy", np.stack([waiting[key] for key in keys]))
                self._write(f"{token}.rows.npy", np.array(keys, np.uint64))
                self._add(token)
        except OSError as error:
            self.trouble = f"the teacher's answers are not kept: {error.strerror or error}"

    def forget(self) -> None:
        """Drop what waits, and keep nothing from now on."""
        self._waiting = {}
        self.trouble = "rows never come again"

    def _write(self, name: str, array: Array) -> None:
        hidden = self._folder / f".{name}.part"
        try:
            with hidden.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            hidden.replace(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                hidden.unlink(missing_ok=True)
            raise

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            teachers = [each for each in self._root.glob("*") if each.is_dir()]
            teachers.sort(key=lambda each: each.stat().st_mtime_ns)
            for old in [each for each in teachers if each != self._folder][: -(KEPT - 1)]:
                shutil.rmtree(old, ignore_errors=True)
            for file in sorted(self._folder.glob("*.rows.npy")):
                self._add(file.name.removesuffix(".rows.npy"))

    def _add(self, token: str) -> None:
        """Map one file of answers; one that is damaged is as good as missing."""
        try:
            keys = np.load(self._folder / f"{token}.rows.npy", allow_pickle=False)
            answers = np.load(
                self._folder / f"{token}.answers.npy", mmap_mode="r", allow_pickle=False
            )
        except (OSError, ValueError, EOFError):
            return
        if keys.shape != (len(answers), 2) or answers.dtype != np.float32:
            return
        self._bytes += answers.nbytes + keys.nbytes
        place = len(self._chunks)
        self._chunks.append(answers)
        for index, (high, low) in enumerate(keys.tolist()):
            self._places[high, low] = (place, index)


LIBRARIES = ("onnxruntime", "onnxruntime-ep-openvino", "torch", "numpy")
"""What engines compute with; an ensemble may use all of them."""


def key_of(manifest: Manifest) -> str:
    """What the answers of a package follow from, beside its rows.

    Its digest, its engine and what that computes in, the versions of the libraries, and the
    instruction sets of this machine: int8 saturates where VNNI is missing.
    """
    parts = {
        "digest": manifest.digest,
        "engine": manifest.engine,
        "engine's code": _own_code(manifest.engine),
        "precision": manifest.precision,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "instructions": sorted(hardware.detect().isa),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _own_code(engine: str) -> str:
    """SHA-256 of the module of an engine of the user's own, which has no version; "" of ours."""
    if engine in engines.ENGINES:
        return ""
    module = sys.modules[engines.find(engine).__module__]
    file = Path(getattr(module, "__file__", None) or "")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def hashes(inputs: Tensors, manifest: Manifest) -> list[Key]:
    """One hash a row, of all its inputs; equal rows have equal ones, filled up or not."""
    own = _own_sizes(inputs, manifest)
    found: list[Key] = []
    ordered = sorted(inputs.items())
    for row in range(rows(inputs)):
        digest = hashlib.blake2b(digest_size=16)
        for name, array in ordered:
            part = array[row]
            if name in own:
                part = part[tuple(slice(int(size[row])) for size in own[name])]
            digest.update(f"{name}:{part.dtype}:{part.shape};".encode())
            if part.dtype.kind == "O":
                for item in part.flat:
                    digest.update(len(item).to_bytes(8, "little") + item)
            else:
                digest.update(np.ascontiguousarray(part).tobytes())
        whole = digest.digest()
        found.append((int.from_bytes(whole[:8], "big"), int.from_bytes(whole[8:], "big")))
    return found


def _own_sizes(inputs: Tensors, manifest: Manifest) -> dict[str, list[Any]]:
    """Tensor → for each dimension after the batch the size of each row without filled-up zeros.

    Empty where the package does not prove that zeros behind a row change nothing.
    """
    proof = manifest.padding
    if proof is None or not proof.harmless:
        return {}
    count = rows(inputs)
    sizes: dict[str, Array] = {}
    places = axes(manifest.inputs, proof.dimensions)
    for name, here in places.items():
        array = inputs[name]
        for axis, dimension in here:
            others = tuple(each for each in range(1, array.ndim) if each != axis)
            used = (array != 0).any(axis=others) if others else array != 0
            length = used.shape[1]
            last = np.where(used.any(1), length - np.argmax(used[:, ::-1], axis=1), 0)
            sizes[dimension] = np.maximum(sizes.get(dimension, np.zeros(count, int)), last)
    found: dict[str, list[Any]] = {}
    for name, here in places.items():
        array = inputs[name]
        by_axis = dict(here)
        if by_axis:
            found[name] = [
                sizes[by_axis[axis]] if axis in by_axis else np.full(count, array.shape[axis])
                for axis in range(1, array.ndim)
            ]
    return found
