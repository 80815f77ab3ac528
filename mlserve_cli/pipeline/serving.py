"""What `mlserve up` was given, recognized by its content, and made ready to serve.

FILE.onnx    an ONNX file: packaged once, into a cache that is keyed by its content
PKG          a package: manifest.json and serve/
REPO         packages below name/version/, or side by side in one folder
DIR          a server folder: server.py and server.toml, as `emit` writes it
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from mlserve_cli.errors import MlserveError, PackageError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime.manifest import MANIFEST, SCHEMA

if TYPE_CHECKING:
    import onnx

    from mlserve_cli.runtime.configuration import Configuration
    from mlserve_cli.runtime.server import Server

Kind = Literal["onnx", "package", "repository", "server"]

_ALLOWED = "give an ONNX file, a package, a folder of packages, or a server folder"


def recognize(path: Path) -> Kind:
    """Say what `path` is. Raises `PackageError` saying what was found, where it is none of them."""
    if not path.exists():
        raise PackageError(f"'{path}' does not exist.", hint=_ALLOWED)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise PackageError(f"'{path}' is neither a file nor a folder.", hint=_ALLOWED)
    if _is_onnx(path):
        return "onnx"
    if path.name in (MANIFEST, "server.py", "server.toml"):
        raise PackageError(
            f"'{path}' is one file of a folder.", hint=f"give the folder: {path.parent}"
        )
    if path.suffix == ".py":
        raise PackageError(
            f"'{path}' is a Python file, which can be served once it is a package.",
            hint=f"mlserve export {path} -o PKG, then mlserve up PKG",
        )
    if path.suffix == ".toml":
        raise PackageError(
            f"'{path}' describes an ensemble, which can be served once it is a package.",
            hint=f"mlserve export {path} -o PKG, then mlserve up PKG",
        )
    if path.stat().st_size == 0:
        raise PackageError(f"'{path}' is empty.", hint=_ALLOWED)
    what = "is not a whole ONNX file" if path.suffix == ".onnx" else "is no ONNX file"
    raise PackageError(f"'{path}' {what}.", hint=_ALLOWED)


def _folder(path: Path) -> Kind:
    if (path / "server.py").is_file() and (path / "server.toml").is_file():
        return "server"
    if (path / MANIFEST).is_file():
        return "package"
    # Not deeper than name/version/: a home folder given by mistake is not searched.
    if any(path.glob(f"*/{MANIFEST}")) or any(path.glob(f"*/*/{MANIFEST}")):
        return "repository"
    if not any(path.iterdir()):
        raise PackageError(f"'{path}' is an empty folder.", hint=_ALLOWED)
    definition = path / "model.py"
    if definition.is_file():
        raise PackageError(
            f"'{path}' holds a model definition, which can be served once it is a package.",
            hint=f"mlserve export {definition} -o PKG, then mlserve up PKG",
        )
    files = sorted(path.glob("*.onnx"))
    if files:
        raise PackageError(
            f"'{path}' is a plain folder with {len(files)} ONNX file(s) in it.",
            hint=f"give the file: mlserve up {files[0]}",
        )
    if (path / "server.py").is_file() or (path / "mlserve_runtime").is_dir():
        raise PackageError(
            f"'{path}' is a server folder without its server.py or server.toml.",
            hint="write it again with 'mlserve emit PKG -o DIR'",
        )
    raise PackageError(f"'{path}' holds no package.", hint=_ALLOWED)


# The fields of ModelProto in onnx.proto, by number: those that are numbers, those with a length.
_NUMBERS = frozenset({1, 5})
_LENGTHS = frozenset({2, 3, 4, 6, 7, 8, 14, 20, 25, 26})
_GRAPH = 7


def _is_onnx(path: Path) -> bool:
    """Whether the file is one whole ModelProto, from its outermost fields alone.

    ONNX has no magic number. A few bytes are read however large the file is, and a file that was
    cut short does not end where its last field does.
    """
    size = path.stat().st_size
    graph = False
    with path.open("rb") as file:
        try:
            while file.tell() < size:
                key = _varint(file)
                field, wire = key >> 3, key & 7
                if wire == 0 and field in _NUMBERS:
                    _varint(file)
                elif wire == 2 and field in _LENGTHS:
                    length = _varint(file)
                    file.seek(length, os.SEEK_CUR)
                    graph |= field == _GRAPH and length > 0
                else:
                    return False
            return graph and file.tell() == size
        except (ValueError, OSError, OverflowError):
            return False


def _varint(file: BinaryIO) -> int:
    """Read one base-128 number, as Protocol Buffers write them."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends in the middle of a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("no number of 64 bits")


def packaged(file: Path, *, progress: Progress, environ: Mapping[str, str] = os.environ) -> Package:
    """The package of an ONNX file: from the cache, or made now and put there.

    Raises what `export` raises. A cached package that is damaged is made again.
    """
    from mlserve_cli.export.export import export, valid_name

    name = valid_name(file.stem)
    target = cache(environ) / f"onnx-{SCHEMA}" / content_key(file) / name
    if target.exists():
        try:
            return Package.open(target)
        except PackageError:
            progress.say(f"the cached package of '{file}' is damaged; it is made again")
    with _named_onnx(file) as source:
        return export(str(source), target, name=name, progress=progress, overwrite=True)


@contextmanager
def _named_onnx(file: Path) -> Iterator[Path]:
    """The file under a name that ends in .onnx, which is how `export` tells its sources apart."""
    if file.suffix == ".onnx":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="mlserve-") as folder:
        link = Path(folder) / "model.onnx"
        link.symlink_to(file.resolve())
        yield link


def cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Where packages of bare ONNX files are kept; safe to delete at any time."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mlserve"


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a graph holds, those of its branches and loops too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def content_key(file: Path) -> str:
    """SHA-256 of the file and of the data files that it names, in hexadecimal."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    total = hashlib.sha256()
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's errors share no public base class
        raise PackageError(f"'{file}' is not a whole ONNX file.", hint=_ALLOWED) from error
    parts = {
        ExternalDataInfo(tensor).location
        for tensor in _tensors(model.graph)
        if uses_external_data(tensor)
    }
    for path in (file, *(file.parent / part for part in sorted(parts))):
        try:
            with path.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise MlserveError(f"'{path}' cannot be read: {error.strerror}.") from error
    return total.hexdigest()


def environment(flags: Mapping[str, str]) -> dict[str, str]:
    """The flags of `up` as the environment variables that a server folder reads."""
    return {f"MLSERVE_{name.upper()}": _placed(name, text) for name, text in flags.items()}


_FILES = ("keys", "tls_cert", "tls_key")
"""Settings that name a file: on the command line, from where the user stands."""


def configuration(
    source: Path, flags: Mapping[str, str], file: Path | None = None
) -> Configuration:
    """Every setting with its origin: `server.toml` of a server folder, MLSERVE_*, the flags.

    What is no server folder is itself what `models` says, and may have a `file` of settings from
    elsewhere, as `mlserve plan` writes one. Raises `SettingsError`.
    """
    import msgspec

    from mlserve_cli.errors import SettingsError
    from mlserve_cli.runtime.configuration import Configuration, resolve
    from mlserve_cli.runtime.settings import FILE

    environ = dict(os.environ)
    is_folder = (source / FILE).is_file() and recognize(source) == "server"
    if is_folder and file is not None:
        raise SettingsError(
            f"'{source}' is a server folder, whose settings are its own {FILE}.",
            hint=f"put the numbers of '{file}' in there",
        )
    if not is_folder:
        for name in _FILES:
            variable = f"MLSERVE_{name.upper()}"
            if environ.get(variable):
                environ[variable] = _placed(name, environ[variable])
    placed = {name: _placed(name, text) for name, text in flags.items()}
    found = resolve(source / FILE if is_folder else file, environ, placed)
    if is_folder:
        return found
    settings = msgspec.structs.replace(found.settings, models=str(source.resolve()))
    return Configuration(settings, found.origins | {"models": "the command line"})


def server(source: Path, flags: Mapping[str, str], file: Path | None = None) -> Server:
    """A server of one package or a folder of them; nothing is loaded yet.

    flags: settings by name, as text; they win over MLSERVE_*, and those over `file`. Raises
    `SettingsError`.
    """
    from mlserve_cli.runtime.server import Server

    made = Server(configuration(source, flags, file).settings, source.resolve())
    made.file = None  # `models` of a file is not what is served: it is read once, now
    return made


def _placed(name: str, text: str) -> str:
    return str(Path(text).resolve()) if name in _FILES and text else text
