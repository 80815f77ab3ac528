"""manifest.json: what a package says of itself, and the check that its files are what it says.

    package/
      manifest.json     this structure, with its own digest
      serve/            what a server needs; every file stands in `files` with its SHA-256
      source/           what further training needs (in `files` too; a server folder has none)
      evidence/         measurements, outside the digest

The digest is the SHA-256 of the canonical JSON of everything but `digest` itself; it covers the
files through their hashes.
"""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from . import golden
from .errors import PackageError
from .processing.declaration import Processing, TextInput
from .tensors import DATATYPES, TensorSpec, fixed_batch

SCHEMA = 1
"""Raised when an older reader would misunderstand a manifest."""

MANIFEST = "manifest.json"
SERVE = "serve"
SOURCE = "source"
EVIDENCE = "evidence"

_SUPPORT = frozenset({"golden.npz", "statistics.json", "processing.py"})
"""Files of serve/ that no engine loads."""

_PARTS = ("members", "functions")
"""Folders of an ensemble's serve/, which it reads as a whole."""


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a package: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str


class StepRecord(msgspec.Struct, frozen=True):
    """One step of the lineage: what was done to which parent, with what."""

    step: str
    parent: str | None = None  # the parent's digest; None for the first step
    parameters: dict[str, Any] = {}
    seed: int | None = None
    libraries: dict[str, str] = {}  # name → version


class BatchProof(msgspec.Struct, frozen=True):
    """Whether a row's answer is the same alone and beside any neighbours.

    invariant: proven with ordinary, outlier, NaN and padding rows as neighbours.
    tolerance: the largest difference allowed, relative to the output's range.
    sizes: the batch sizes that were run.
    reason: why not, for a person, where `invariant` is false.
    """

    invariant: bool
    tolerance: float = 0.0
    sizes: tuple[int, ...] = ()
    reason: str | None = None

    @property
    def max_batch(self) -> int | None:
        """The most rows that may be run together; None where there is no limit."""
        return None if self.invariant else 1


class PaddingProof(msgspec.Struct, frozen=True):
    """Whether a row's answer stays the same when its inputs are filled up with zeros at their end.

    harmless: proven by running real rows at their own size and filled up to larger ones.
    dimensions: the names of those that may be filled up. largest: the largest size that was tried.
    tolerance: the largest difference allowed, relative to the output's range.
    reason: why not, for a person, where `harmless` is false.
    """

    harmless: bool
    dimensions: tuple[str, ...] = ()
    largest: int = 0
    tolerance: float = 0.0
    reason: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a package says of itself."""

    schema: int = SCHEMA
    name: str
    version: str
    variant: str  # what sets it apart from its siblings: "fp32", "int8-static", "pruned-fp32" …
    description: str = ""
    licence: str | None = None
    engine: str = "onnxruntime"  # a key of engines.ENGINES
    precision: Literal["fp32", "bf16"] = "fp32"  # what the engine computes float32 in
    model: str = "model.onnx"  # the engine's file, in serve/
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    processing: Processing = Processing()
    labels: tuple[str, ...] = ()
    sample: Literal["real", "synthetic"] = "real"  # what golden predictions and proofs were made of
    finite_inputs: bool = False  # NaN and infinities are refused: an int8 model would hide them
    batch: BatchProof = BatchProof(invariant=False, reason="not examined")
    padding: PaddingProof | None = None  # None: no size but the batch may differ, or not examined
    instruction_sets: tuple[str, ...] = ()  # what the accuracy holds on ("a|b": either); empty: any
    tolerance: float = 1e-4  # golden predictions may differ by this, relative to the output's range
    lineage: tuple[StepRecord, ...] = ()
    files: dict[str, FileEntry] = {}  # path in the package, with slashes → entry
    digest: str = ""

    @property
    def fixed_batch(self) -> int | None:
        """The number of rows that the model takes, where it takes only one number of them."""
        return fixed_batch(self.inputs)

    @property
    def weight_bytes(self) -> int:
        """What an engine loads: the model's file, its external data, the members of an ensemble."""
        return sum(
            entry.size
            for name, entry in self.files.items()
            if name.startswith(SERVE + "/") and name.split("/")[-1] not in _SUPPORT
        )

    def computed_digest(self) -> str:
        """`sha256:…` of the canonical JSON of everything but the digest."""
        return _digest(msgspec.to_builtins(self))

    def sealed(self) -> Manifest:
        """The same manifest with its digest filled in."""
        return msgspec.structs.replace(self, digest=self.computed_digest())

    def to_json(self) -> bytes:
        """The text of manifest.json."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def _missing(package: Path) -> str:
    """What to do about a package that is not there: its neighbour is meant, or none was made."""
    beside = [path.parent.name for path in package.parent.glob(f"*/{MANIFEST}")]
    near = difflib.get_close_matches(package.name, beside, n=1)
    if near:
        return f"did you mean '{package.parent / near[0]}'?"
    return "make one with 'mlserve export SOURCE -o PKG'"


def _digest(document: dict[str, Any]) -> str:
    """The digest of a manifest as it was written.

    So it holds whichever fields this version knows beside those, and a new one changes no digest
    of a package that was made before.
    """
    plain = {name: value for name, value in document.items() if name != "digest"}
    _leave_out(plain, padding=None, precision="fp32")
    processing = plain.get("processing")
    if isinstance(processing, dict) and isinstance(processing.get("input"), dict):
        given = dict(processing["input"])
        plain["processing"] = {**processing, "input": given}
        if given.get("kind") == "image":
            _leave_out(given, interpolation="bilinear", crop=1.0)
    return "sha256:" + hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()


def _leave_out(fields: dict[str, Any], **younger: Any) -> None:
    """Fields that stand in files, but for these values never in a digest: it is older than they."""
    for name, value in younger.items():
        if name in fields and fields[name] == value:
            del fields[name]


class _Header(msgspec.Struct):
    schema: Any = None


def read(package: Path) -> Manifest:
    """Read and check `package/manifest.json`, not the files that it lists.

    Raises `PackageError` when it is missing, not JSON, of a newer schema, or changed by hand.
    """
    path = package / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        source = package if package.suffix in (".onnx", ".py") else "SOURCE"
        if not package.exists():
            raise PackageError(f"'{package}' does not exist.", hint=_missing(package)) from None
        raise PackageError(
            f"'{package}' is not a package: it has no {MANIFEST}.",
            hint=f"make one with 'mlserve export {source} -o PKG'",
        ) from None
    except OSError as error:
        raise PackageError(f"'{path}' cannot be read: {error.strerror}.") from error
    try:
        schema = msgspec.json.decode(text, type=_Header).schema
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"'{path}' is damaged: {error}.", hint=_AGAIN) from error
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise PackageError(f"'{path}' is damaged: schema is {schema!r}, not a number.", hint=_AGAIN)
    if schema > SCHEMA:
        raise PackageError(
            f"'{package}' has schema {schema}, and this mlserve reads up to {SCHEMA}.",
            hint="upgrade mlserve, or make the package again with this one",
        )
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
        written = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"'{path}' is damaged: {error}.", hint=_AGAIN) from error
    if _digest(written) != manifest.digest:
        raise PackageError(
            f"'{path}' was changed after the package was made: its digest does not match.",
            hint=_AGAIN,
        )
    _check_names(path, manifest)
    return manifest


def verify_files(package: Path, manifest: Manifest, *, folder: str = SERVE) -> None:
    """Compare every listed file below `folder` with its size and SHA-256.

    Raises `PackageError` naming the first file that is missing, truncated, changed or a link out of
    the package; and, of `serve/`, one that would be read without being listed.
    """
    for name in _needed(package, manifest) if folder == SERVE else ():
        if name not in manifest.files:
            raise PackageError(
                f"'{package / MANIFEST}' does not list '{name}', so nobody can tell whether it is "
                "the file that was packaged.",
                hint=_AGAIN,
            )
    inside = package.resolve()
    for name, entry in manifest.files.items():
        if not name.startswith(folder + "/"):
            continue
        path = package / name
        try:
            # Whoever may write there could change it after the check, or have any file read.
            if inside not in path.resolve().parents:
                raise PackageError(f"'{path}' is a link out of the package.", hint=_AGAIN)
            size = path.stat().st_size
            if size != entry.size:
                raise PackageError(
                    f"'{path}' has {size} bytes where the manifest says {entry.size}.", hint=_AGAIN
                )
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise PackageError(f"'{path}' is missing from the package.", hint=_AGAIN) from None
        except OSError as error:
            raise PackageError(f"'{path}' cannot be read: {error.strerror}.") from error
        if found != entry.sha256:
            raise PackageError(
                f"'{path}' is not the file that was packaged: its SHA-256 differs.", hint=_AGAIN
            )


_AGAIN = "copy the package again, or make it again"


def _needed(package: Path, manifest: Manifest) -> list[str]:
    """The files that a server reads for sure; `files` must know them."""
    declared = manifest.processing
    names = [manifest.model, golden.FILE]
    if declared.python is not None:
        names.append(declared.python.file)
    if isinstance(declared.input, TextInput) and declared.input.tokenizer is not None:
        names.append(declared.input.tokenizer)
    needed = [f"{SERVE}/{name}" for name in names]
    if manifest.engine == "ensemble":
        needed += [
            path.relative_to(package).as_posix()
            for part in _PARTS
            for path in sorted((package / SERVE / part).rglob("*"))
            if path.is_file() and path.parent.name != "__pycache__"  # which is never read
        ]
    return needed


def _check_names(path: Path, manifest: Manifest) -> None:
    for name in (*manifest.files, f"{SERVE}/{manifest.model}"):
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise PackageError(f"'{path}' lists '{name}', which would leave the package.")
        if "\0" in name:
            raise PackageError(f"'{path}' lists {name!r}, which no file can be called.")
    check_name(manifest.name, "model name")
    check_name(manifest.version, "version")
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.datatype not in DATATYPES:
            raise PackageError(
                f"'{path}' gives '{spec.name}' the datatype '{spec.datatype}'; "
                f"it can be {', '.join(DATATYPES)}."
            )


def check_name(name: str, what: str) -> str:
    """Refuse a name that could not stand in a path and a URL as it is."""
    allowed = name and len(name) <= 128 and name[0].isalnum() and name.isascii()
    if not allowed or not all(c.isalnum() or c in "._-" for c in name):
        raise PackageError(
            f"'{name}' cannot be a {what}.",
            hint="letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128",
        )
    return name
