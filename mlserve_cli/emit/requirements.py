"""requirements.txt of a server folder: what it imports, pinned to what was tested here.

What those libraries need in turn is pinned too, so that the same file gives the same environment
next year.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlserve_cli.errors import MissingExtra
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ImageInput, TextInput

_ALWAYS = {
    "numpy": "tensors",
    "msgspec": "JSON in and out",
    "onnxruntime": "runs the models",
    "starlette": "routes",
    "uvicorn": "the HTTP server",
    "uvloop": "its event loop",
    "httptools": "its HTTP parser",
    "prometheus-client": "/metrics",
}

_FOR_GRPC = ("grpcio", "protobuf")


def pinned(manifests: Sequence[Manifest], extra: Sequence[str] = ()) -> str:
    """The text of requirements.txt for a server of these models.

    extra: lines of requirements that an ensemble's functions have.

    Raises `MissingExtra` when a model needs a library that is not installed here, since then
    there is no tested version to pin.
    """
    direct = dict(_ALWAYS)
    theirs: dict[str, str] = {}  # canonical name → line
    for manifest in manifests:
        direct |= _for_model(manifest)
        if manifest.processing.python is not None:
            for line in manifest.processing.python.requirements:
                theirs[_name(line)] = _as_tested(line)
    for line in extra:
        theirs[_name(line)] = _as_tested(line)
    for name in direct:
        theirs.pop(name, None)
    lines = [
        "# What server.py needs, pinned to the versions that were tested with it on",
        f"# Python {python_version()}.",
    ]
    lines += [f"{_pin(name)}  # {purpose}" for name, purpose in direct.items()]
    if theirs:
        lines += ["", "# What the models' own Python code needs.", *theirs.values()]
    indirect = sorted(_closure([*direct, *theirs]) - {*direct, *theirs})
    if indirect:
        lines += ["", "# What those need in turn.", *map(_pin, indirect)]
    if all(_installed(name) is not None for name in _FOR_GRPC):
        pins = [f"# {_pin(name)}" for name in _FOR_GRPC]
        lines += ["", "# For gRPC, a grpc_port in server.toml, take these as well:", *pins]
    return "\n".join(lines) + "\n"


def python_version() -> str:
    """The Python that the pins were tested with, as `3.11`."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _for_model(manifest: Manifest) -> dict[str, str]:
    """Canonical name → purpose of what this model needs beside the server's own."""
    needed = {}
    given = manifest.processing.input
    if isinstance(given, ImageInput):
        needed["pillow"] = "decodes pictures"
    if isinstance(given, TextInput) and given.tokenizer:
        needed["tokenizers"] = "text to token ids"
    if manifest.engine == "openvino":
        needed["onnxruntime-ep-openvino"] = "OpenVINO inside ONNX Runtime"
    if manifest.engine == "torch":
        needed["torch"] = "runs PyTorch models; its CPU build stands on an index of its own"
    for name, purpose in needed.items():
        if _installed(name) is None:
            raise MissingExtra(
                f"'{name}' is needed to serve '{manifest.name}' ({purpose}), and it is not "
                "installed, so there is no tested version to pin.",
                hint=f"pip install {name}",
            )
    return needed


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pin(name: str) -> str:
    # A local version ("2.13.0+cpu") is on no index under that name.
    return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"


def _name(line: str) -> str:
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:  # a URL or a pip option: it stands for itself
        return line.strip()


def _as_tested(line: str) -> str:
    """A line of a package's own requirements, pinned where what is installed here satisfies it."""
    try:
        wanted = Requirement(line)
    except InvalidRequirement:
        return line.strip()
    found = _installed(wanted.name)
    if wanted.url or wanted.marker or wanted.extras or found is None:
        return line.strip()
    return _pin(wanted.name) if wanted.specifier.contains(found, prereleases=True) else line.strip()


def _closure(names: Iterable[str]) -> set[str]:
    """Canonical names of all that `names` need and is installed here, without their extras."""
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen or _installed(name) is None:
            continue
        seen.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return seen
