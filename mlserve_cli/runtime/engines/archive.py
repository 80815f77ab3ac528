"""A `.pt2` file: what PyTorch put into it, read without importing PyTorch or running any of it.

It is a zip archive of one of two kinds (the PT2 archive format of PyTorch 2.8 and later):

    <root>/archive_format                       "pt2"
    <root>/models/<name>.json                   a torch.export program, its weights beside it
    <root>/data/aotinductor/<name>/*.so         an AOTInductor package: compiled for one machine
"""

from __future__ import annotations

import json
import platform
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from ..errors import EngineError
from ..hardware import cpu_flags
from ..tensors import TensorSpec

SIGNATURE_FILE = "mlserve.json"
"""Beside a program: extra/mlserve.json."""

SIGNATURE_KEY = "mlserve.signature"
"""Among the metadata of a compiled one, whose own format knows no names and no shapes."""

_FLAGS = {
    "AVX2": "avx2",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AMX_TILE": "amx_tile",
    "AMX_FP16": "amx_fp16",
}
"""AOTInductor's names of instruction sets → those of /proc/cpuinfo."""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and answers, in the order of its own parameters.

    limits: input → how many values it may have, from 0, where it is an index into a table.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: dict[str, int] = {}


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What an AOTInductor package was compiled for, in its own words."""

    device: str = msgspec.field(name="AOTI_DEVICE_KEY", default="cpu")
    system: str = msgspec.field(name="AOTI_PLATFORM", default="")
    machine: str = msgspec.field(name="AOTI_MACHINE", default="")
    isa: str = msgspec.field(name="AOTI_CPU_ISA", default="")
    capability: str = msgspec.field(name="AOTI_COMPUTE_CAPABILITY", default="")
    signature: str = msgspec.field(name=SIGNATURE_KEY, default="")

    def read_signature(self, path: Path) -> Signature:
        """Its names and shapes. Raises `EngineError` where mlserve did not compile it."""
        if not self.signature:
            raise EngineError(
                f"'{path}' does not say what its inputs and outputs are called.",
                hint="make it with 'mlserve export MODEL --engine torch-aoti'",
            )
        return _signature(path, self.signature.encode())


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """A `.pt2` file whose content was looked through.

    compiled: None for a torch.export program. signature: the program's; None where mlserve did not
    write it, and it has to be read from the program itself.
    example: the member that holds example inputs, a pickle for `weights_only` eyes; None without.
    """

    path: Path
    compiled: Compiled | None = None
    signature: Signature | None = None
    example: str | None = None


def read(path: Path) -> Archive:
    """Look through the file. Raises `EngineError` where it is no such archive, or holds pickles."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, AttributeError) as error:
        raise EngineError(
            f"'{path}' is no whole .pt2 file: {error}.",
            hint="torch.export.save writes one, and so does 'mlserve export MODEL --engine torch'",
        ) from error


def _read(path: Path, archive: zipfile.ZipFile) -> Archive:
    names = archive.namelist()
    root = next((name.split("/")[0] for name in names if name.endswith("/archive_format")), None)
    if root is None:
        raise ValueError("it has no 'archive_format'")
    compiled = [name for name in names if name.startswith(f"{root}/data/aotinductor/")]
    if compiled:
        return _compiled(path, archive, compiled)
    programs = [name for name in names if name.startswith(f"{root}/models/")]
    if programs != [f"{root}/models/model.json"]:
        raise ValueError(f"it holds {len(programs)} programs, and one of the name 'model' is run")
    _refuse_pickles(path, archive, names)
    extra = f"{root}/extra/{SIGNATURE_FILE}"
    sample = f"{root}/data/sample_inputs/model.pt"
    return Archive(
        path=path,
        signature=_signature(path, archive.read(extra)) if extra in names else None,
        example=sample if sample in names and archive.getinfo(sample).file_size else None,
    )


def _compiled(path: Path, archive: zipfile.ZipFile, names: list[str]) -> Archive:
    facts = [name for name in names if name.endswith("wrapper_metadata.json")]
    models = {name.split("/")[3] for name in names}
    if len(models) != 1 or len(facts) != 1:
        raise ValueError(f"it holds {len(models)} compiled models, and one is run")
    compiled = msgspec.json.decode(archive.read(facts[0]), type=Compiled)
    compiled.read_signature(path)
    return Archive(path=path, compiled=compiled)


def _signature(path: Path, text: bytes) -> Signature:
    try:
        return msgspec.json.decode(text, type=Signature)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EngineError(f"the signature in '{path}' is damaged: {error}.") from error


def _refuse_pickles(path: Path, archive: zipfile.ZipFile, names: list[str]) -> None:
    """Weights are plain bytes but for exotic tensors; loading a pickle runs what its author wrote.

    Raises `EngineError`.
    """
    for name in names:
        if not name.endswith(("_weights_config.json", "_constants_config.json")):
            continue
        entries: dict[str, Any] = json.loads(archive.read(name)).get("config", {})
        for key, entry in entries.items():
            if entry.get("use_pickle", True):
                raise EngineError(
                    f"'{key}' in '{path}' is stored as a pickle, which could run any code.",
                    hint="export the model with plain tensors as its weights and constants",
                )


def check_machine(path: Path, compiled: Compiled) -> None:
    """Refuse what was compiled for another machine: it would crash, not fail.

    Raises `EngineError`.
    """
    here = (sys.platform, platform.machine())
    there = (compiled.system or here[0], compiled.machine or here[1])
    if there != here:
        raise _elsewhere(path, " ".join(there), " ".join(here))
    flags = cpu_flags()
    missing = [
        name for name in compiled.isa.split() if name in _FLAGS and _FLAGS[name] not in flags
    ]
    if flags and missing and compiled.device == "cpu":
        raise _elsewhere(path, f"a CPU with {', '.join(missing)}", "a CPU without")


def check_gpu(path: Path, compiled: Compiled, capability: tuple[int, int]) -> None:
    """Refuse kernels of another GPU generation. Raises `EngineError`.

    They run on the same major generation, from the minor one on that they were compiled for.
    """
    if not compiled.capability.isdigit():
        return
    major, minor = divmod(int(compiled.capability), 10)
    if capability[0] != major or capability[1] < minor:
        raise _elsewhere(
            path,
            f"compute capability {major}.{minor}",
            f"a GPU of {capability[0]}.{capability[1]}",
        )


def _elsewhere(path: Path, there: str, here: str) -> EngineError:
    return EngineError(
        f"'{path}' was compiled for {there}, and this is {here}.",
        hint="compile it where it is served, with 'mlserve export MODEL --engine torch-aoti'; "
        "the engine torch runs anywhere",
    )
