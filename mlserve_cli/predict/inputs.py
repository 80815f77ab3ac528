"""`--input`: files, globs, folders and URLs → the files in their order, and how they are read."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlserve_cli.errors import DataError
from mlserve_cli.predict import location
from mlserve_cli.predict.job import InputRecord
from mlserve_cli.predict.location import Location
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import ImageInput, TextInput

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

KINDS: Mapping[str, str] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".npy": "npy",
    ".npz": "npz",
    ".txt": "texts",
    **dict.fromkeys(PICTURES, "pictures"),
}
"""Suffix → kind, a key of `blocks.READERS`."""

WHAT = (
    ".parquet, .arrow, .feather, .csv, .jsonl, .json, .npy, .npz, a folder of them, of pictures or "
    "of .txt files, or file.py:function"
)

LISTED = 100
"""More files than this stand in the manifest as one line; a folder may hold a million pictures."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that is to be predicted.

    kind: how the files are read. files: in their order; none for stdin and for a function.
    spec: what a function is called, `file.py:function`.
    """

    kind: str
    files: tuple[Location, ...]
    spec: str = ""

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.size for file in self.files)

    @property
    def piped(self) -> bool:
        """Whether it comes from stdin, which cannot be read again."""
        return not self.files and not self.spec

    def records(self) -> tuple[InputRecord, ...]:
        """What has to be the same when the job goes on."""
        if self.kind == "function":
            path = Path(self.spec.rpartition(":")[0])
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            return (InputRecord(name=self.spec, size=path.stat().st_size, stamp=digest),)
        if len(self.files) <= LISTED:
            return tuple(
                InputRecord(name=file.name, size=file.size, stamp=file.stamp) for file in self.files
            )
        listing = hashlib.sha256()
        for file in self.files:
            listing.update(f"{file.name}\0{file.size}\0{file.stamp}\n".encode())
        name = f"{len(self.files)} files, the first of them {self.files[0].name}"
        return (InputRecord(name=name, size=self.size_bytes, stamp=listing.hexdigest()),)


def find(specs: Sequence[str], manifest: Manifest, *, piped: str) -> Inputs:
    """Look up what `specs` name. `piped` is the kind of stdin ("-").

    Raises `DataError` for what is missing, of no known kind, or of several.
    """
    if "-" in specs:
        if len(specs) > 1:
            raise DataError("stdin ('-') cannot be read beside other inputs.")
        return Inputs(piped, ())
    if len(specs) == 1:
        module, separator, _ = specs[0].rpartition(":")
        if separator and module.endswith(".py"):
            if not Path(module).is_file():
                raise DataError(f"'{module}' does not exist.", hint=f"data is {WHAT}")
            return Inputs("function", (), specs[0])
    found: list[Location] = []
    kinds: dict[str, str] = {}  # kind → one that is of it
    for spec in specs:
        for file in _expand(location.local(spec), manifest):
            kind = KINDS.get(file.suffix)
            if kind is None:
                hint = f"data is {WHAT}"
                if file.suffix == ".py":
                    hint = "name the function that yields the batches: file.py:function"
                raise DataError(
                    f"'{file.name}' is of no kind that can be read ('{file.suffix}').", hint=hint
                )
            kinds.setdefault(kind, file.name)
            found.append(file)
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise DataError(
            f"'{one}' and '{other}' are of different kinds.",
            hint="name files of one kind, as in --input 'folder/*.parquet'",
        )
    (kind,) = kinds
    if kind == "pictures" and not isinstance(manifest.processing.input, ImageInput):
        raise DataError(
            f"'{found[0].name}' is a picture, and '{manifest.name}' does not declare how a picture "
            "becomes a tensor.",
            hint='PROCESSING in the model definition: {"input": {"kind": "image", …}}',
        )
    if kind == "texts" and not isinstance(manifest.processing.input, TextInput):
        raise DataError(f"'{found[0].name}' is text, and '{manifest.name}' does not take any.")
    return Inputs(kind, tuple(found))


def _expand(spec: str, manifest: Manifest) -> list[Location]:
    """The files that one `--input` names."""
    if location.is_url(spec):
        return _remote(spec, manifest)
    path = Path(spec)
    if path.is_dir():
        listed = [
            location.of_path(file, file.relative_to(path).as_posix())
            for file in sorted(path.rglob("*"))
            if _is_visible(file.relative_to(path).as_posix()) and file.is_file()
        ]
        return _of_folder(spec, listed, manifest)
    if path.exists():
        return [location.of_path(path)]
    if any(mark in spec for mark in "*?["):
        matched = [Path(name) for name in sorted(glob.glob(spec, recursive=True))]  # noqa: PTH207 - a pattern may be absolute
        if not matched:
            raise DataError(f"no file matches '{spec}'.")
        return [location.of_path(file) for file in matched if file.is_file()]
    raise DataError(f"'{spec}' does not exist.", hint=f"data is {WHAT}")


def _remote(url: str, manifest: Manifest) -> list[Location]:
    system, path = location.file_system(url)

    def called(name: str) -> str:
        return str(system.unstrip_protocol(name))

    try:
        if any(mark in url for mark in "*?["):
            matched = system.glob(path, detail=True)
            if not matched:
                raise DataError(f"no file matches '{url}'.")
            return [location.of_info(called(name), matched[name]) for name in sorted(matched)]
        if system.isdir(path):
            below = path.rstrip("/") + "/"
            listed = system.find(path, detail=True)
            return _of_folder(
                url,
                [
                    location.of_info(called(name), listed[name], name.removeprefix(below))
                    for name in sorted(listed)
                    if _is_visible(name.removeprefix(below))
                ],
                manifest,
            )
        return [location.of_info(url, system.info(path))]
    except DataError:
        raise
    except Exception as error:  # each file system has its own
        raise location.unreadable(url, error) from error


def _of_folder(name: str, files: list[Location], manifest: Manifest) -> list[Location]:
    """The files that are meant: of the kind that the package takes, or the only kind there."""
    by_kind: dict[str, list[Location]] = {}
    for file in files:
        kind = KINDS.get(file.suffix)
        if kind is not None:
            by_kind.setdefault(kind, []).append(file)
    declared = manifest.processing.input
    if isinstance(declared, ImageInput) and "pictures" in by_kind:
        return by_kind["pictures"]
    tables = {kind: each for kind, each in by_kind.items() if kind not in ("pictures", "texts")}
    if isinstance(declared, TextInput) and "texts" in by_kind and not tables:
        return by_kind["texts"]
    chosen = tables or by_kind
    if not chosen:
        raise DataError(f"'{name}' holds nothing that can be read.", hint=f"data is {WHAT}")
    if len(chosen) > 1:
        ending = chosen[min(chosen)][0].suffix
        raise DataError(
            f"'{name}' holds files of several kinds: {', '.join(sorted(chosen))}.",
            hint=f"choose some: --input '{name.rstrip('/')}/*{ending}'",
        )
    return next(iter(chosen.values()))


def _is_visible(path: str) -> bool:
    """Whether no part is hidden, or one that writers of tables keep their own notes in."""
    return not any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)
