"""What a server is asked: rows of a package, of a data file, its own example, or made-up ones."""

from __future__ import annotations

import itertools
import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mlserve_cli.bench.live import wire
from mlserve_cli.bench.live.place import Place, ask
from mlserve_cli.bench.live.served import PAYLOADS, Served
from mlserve_cli.bench.live.wire import Request
from mlserve_cli.data import source as sources
from mlserve_cli.errors import DataError, MlserveError, StepError
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import golden, processing
from mlserve_cli.runtime.tensors import Array, Tensors, TensorSpec, rows, whole_only

MOST = 16
"""Different requests that are sent in turn: a cache, or a tree that knows its row, is no server."""

_MOST_BYTES = 32 << 20
_OPEN_SIZE = 16  # of a dimension other than the batch that the server leaves open


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Requests, where they are from, and what their answers must be, if that is known.

    expected: outputs by name for each request, that may differ by `tolerance` relative to their
    range. synthetic: the rows are made up, and a model whose time depends on them answers in
    another time.
    """

    requests: list[Request]
    source: str
    synthetic: bool = False
    expected: list[Tensors] = field(default_factory=list)
    tolerance: float = 0.0

    @property
    def rows(self) -> int:
        """Of each request."""
        return self.requests[0].rows


def gather(
    place: Place,
    served: Served,
    *,
    batch: int = 1,
    data: str | None = None,
    package: Path | None = None,
    seed: int = 0,
) -> Questions:
    """Requests of `batch` rows each.

    data: a file that `data.source` reads; for protocols that take payloads, a file or a folder
    whose files are sent as they are, or a `.jsonl` with a body in each line. package: its golden
    rows, or `data` read as it reads it. Neither: what the server itself gives as an example, else
    rows that fit its signature.
    Raises `MlserveError`, `DataError` or `PackageError`.
    """
    opened = Package.open(package) if package is not None else None
    if served.protocol in PAYLOADS:
        found = _payloads(place, served, batch, data, opened)
    else:
        found = _tensors(served, batch, data, opened, seed)
    return found


def _tensors(
    served: Served, batch: int, data: str | None, package: Package | None, seed: int
) -> Questions:
    signature = served.signature
    if signature is None:
        raise MlserveError(f"the server tells no signature of '{served.model}'.")
    expected: Tensors | None = None
    tolerance, synthetic = 0.0, False
    if data is not None:
        manifest = package.manifest if package else signature.manifest(served.model)
        folder = package.serve if package else Path()
        processor = processing.build(manifest, folder)
        batches = sources.read(data, manifest, processor, batch=64, targets=False)
        inputs, source = _joined(batches, MOST * batch, manifest.inputs), f"rows of {data}"
    elif package is not None:
        kept = golden.read(package.serve)
        inputs, expected = kept.inputs, kept.outputs
        tolerance = package.manifest.tolerance
        source = f"golden rows of {package.label}"
    else:
        inputs, synthetic = made_up(signature.inputs, MOST * batch, seed=seed), True
        source = "synthetic rows that fit the signature"
    _check_names(served, inputs, data or (package.label if package else ""))
    if not signature.has_batch or whole_only(signature.inputs):
        if batch != 1:
            raise StepError(
                f"'{served.model}' takes a request only whole, so it cannot hold {batch} rows.",
                hint="leave --batch out",
            )
        whole = [_whole(inputs, signature.inputs)]
        return Questions(
            requests=[wire.request(served, one) for one in whole],
            source=source,
            synthetic=synthetic,
        )
    chosen = list(_batches(rows(inputs), batch, _row_bytes(inputs)))
    return Questions(
        requests=[wire.request(served, _take(inputs, one)) for one in chosen],
        source=source,
        synthetic=synthetic,
        expected=[_take(expected, one) for one in chosen] if expected else [],
        tolerance=tolerance,
    )


def _joined(batches: Iterator[object], most: int, specs: Sequence[TensorSpec]) -> Tensors:
    """The first rows of a file, as many as are of use."""
    parts: dict[str, list[Array]] = {spec.name: [] for spec in specs}
    count = 0
    for one in batches:
        inputs: Tensors = one.inputs  # type: ignore[attr-defined]
        if count and any(
            parts[name] and parts[name][-1].shape[1:] != array.shape[1:]
            for name, array in inputs.items()
        ):
            break  # texts are padded to the longest of their batch; the first lengths will do
        for name, array in inputs.items():
            parts[name].append(array)
        count += rows(inputs)
        if count >= most:
            break
    return {name: np.concatenate(found) for name, found in parts.items()}


def _check_names(served: Served, inputs: Tensors, source: str) -> None:
    wanted = {spec.name for spec in served.signature.inputs} if served.signature else set()
    if inputs.keys() != wanted:
        raise DataError(
            f"'{source}' has the inputs {', '.join(sorted(inputs))}, and the served model "
            f"'{served.model}' takes {', '.join(sorted(wanted))}.",
            hint="--package with the package that is served",
        )


def _batches(count: int, batch: int, row_bytes: float) -> Iterator[list[int]]:
    """Row numbers of each request; rows come again where there are too few."""
    number = max(1, min(MOST, -(-count // batch), int(_MOST_BYTES / max(1.0, row_bytes * batch))))
    for one in range(number):
        yield [(one * batch + offset) % count for offset in range(batch)]


def _row_bytes(inputs: Tensors) -> float:
    return sum(array.nbytes for array in inputs.values()) / max(1, rows(inputs))


def _take(tensors: Tensors, chosen: list[int]) -> Tensors:
    return {name: np.ascontiguousarray(array[chosen]) for name, array in tensors.items()}


def _whole(inputs: Tensors, specs: Sequence[TensorSpec]) -> Tensors:
    """One request of a model whose inputs are not rows; a batch among them is one."""
    found = {}
    for spec in specs:
        array = inputs[spec.name]
        size = spec.shape[0] if spec.shape else None
        found[spec.name] = array[:1] if isinstance(size, str) else array[:size]
    return found


def made_up(specs: Sequence[TensorSpec], count: int, *, seed: int = 0) -> Tensors:
    """`count` rows that fit a signature: normal numbers, small whole ones, short texts.

    A size that is open, other than the batch, is 16.
    """
    random = np.random.default_rng(seed)
    found: Tensors = {}
    for spec in specs:
        shape = tuple(
            size if isinstance(size, int) else count if axis == 0 else _OPEN_SIZE
            for axis, size in enumerate(spec.shape)
        )
        kind = spec.dtype.kind
        array: Array
        if kind == "O":
            array = np.empty(int(np.prod(shape)), dtype=np.object_)
            array[:] = [b"text %d" % number for number in range(array.size)]
            array = array.reshape(shape)
        elif kind == "f":
            array = random.normal(size=shape).astype(spec.dtype)
        else:
            array = random.integers(0, 2 if kind == "b" else 10, size=shape).astype(spec.dtype)
        found[spec.name] = array
    return found


def _payloads(
    place: Place, served: Served, batch: int, data: str | None, package: Package | None
) -> Questions:
    if data is not None:
        bodies, source = _bodies(Path(data)), f"files of {data}"
    elif package is not None:
        bodies, source = _golden(package), f"golden rows of {package.label}"
    else:
        bodies, source = [_example(place, served)], "the server's own example"
    if batch > 1:
        bodies = _together(bodies, batch, served)
    return Questions(
        requests=[Request(body, {"Content-Type": kind}, batch) for body, kind in bodies],
        source=source,
    )


def _golden(package: Package) -> list[tuple[bytes, str]]:
    inputs = golden.read(package.serve).inputs
    processor = processing.build(package.manifest, package.serve)
    found = []
    for row in range(min(MOST, rows(inputs))):
        payload = processor.example({name: array[row : row + 1] for name, array in inputs.items()})
        if payload is None:
            raise StepError(
                f"the rows of '{package.label}' cannot be turned back into what it is asked with.",
                hint="--data with files to send, or another --protocol, which sends tensors",
            )
        found.append((payload.body, payload.content_type))
    return found


def _example(place: Place, served: Served) -> tuple[bytes, str]:
    reply = ask(place, "GET", f"/examples/{quote(served.model, safe='')}")
    if reply.status != 200 or not reply.body:
        raise MlserveError(
            f"the server at {place.url} does not say what a request for '{served.model}' holds.",
            hint="--data with a file to send, or --package with what is served",
        )
    return reply.body, reply.headers.get("content-type", "application/json")


def _bodies(path: Path) -> list[tuple[bytes, str]]:
    """Bodies and their content types: of a folder's files, of a `.jsonl`'s lines, or one file."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())[:MOST]
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"'{path}' does not exist.", hint="--data with a file or a folder to send")
    if not files:
        raise DataError(f"'{path}' holds no files.")
    try:
        if files[0].suffix in (".jsonl", ".ndjson"):
            with files[0].open("rb") as lines:
                some = list(
                    itertools.islice((line.strip() for line in lines if line.strip()), MOST)
                )
            if not some:
                raise DataError(f"'{path}' holds no rows.")
            return [(line, "application/json") for line in some]
        return [(file.read_bytes(), _type(file)) for file in files]
    except OSError as error:
        raise DataError(f"'{error.filename}' cannot be read: {error.strerror}.") from error


def _type(file: Path) -> str:
    return mimetypes.guess_type(file.name)[0] or "application/octet-stream"


def _together(
    bodies: list[tuple[bytes, str]], batch: int, served: Served
) -> list[tuple[bytes, str]]:
    if any(kind != "application/json" for _, kind in bodies):
        raise StepError(
            f"a request of {batch} rows can be made of JSON only, and '{served.model}' is sent "
            f"{bodies[0][1]}.",
            hint="leave --batch out",
        )
    texts = [body for body, _ in bodies]
    return [
        (b"[" + b",".join(texts[number] for number in one) + b"]", "application/json")
        for one in _batches(len(texts), batch, float(len(texts[0])))
    ]
