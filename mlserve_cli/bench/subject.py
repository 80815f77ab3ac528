"""A package that is being timed: its engine, loaded, and the rows that it is fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from mlserve_cli.errors import EngineError, first_line
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import engines, golden
from mlserve_cli.runtime.engines import Engine, EngineOptions
from mlserve_cli.runtime.tensors import Array, Tensors, rows

if TYPE_CHECKING:
    from mlserve_cli.runtime.hardware import Hardware

Clock = Callable[[], int]
"""A monotonic clock in nanoseconds."""

Feed = list[Tensors]
"""What is run, one after the other, to answer one batch: one dict, or one a row."""

Precision = Literal["fp32", "bf16"]

FEEDS = 8
"""Different batches that are fed in turn: branchy models (trees) are faster on a row they know."""

FEEDS_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a package is run: by which engine, what it computes float32 in, with how many threads."""

    engine: str
    precision: Precision
    threads: int

    @classmethod
    def of(
        cls,
        package: Package,
        *,
        engine: str | None = None,
        precision: Precision | None = None,
        threads: int = 0,
    ) -> Setting:
        """What the manifest says, but for what is given."""
        manifest = package.manifest
        return cls(
            engine=engine or manifest.engine,
            precision=precision or manifest.precision,
            threads=threads,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A loaded package. `limit_rows`: the most rows, or the only number of them, in one run.

    how: the engine, precision and threads that it was loaded with.
    """

    package: Package
    label: str
    engine: Engine
    how: Setting
    load_ms: float
    real: Tensors
    limit_rows: int | None
    fixed: bool

    @property
    def row_by_row(self) -> bool:
        """Whether a larger batch is answered by several runs of one row."""
        return self.limit_rows == 1

    def feeds(self, batch: int) -> list[Feed]:
        """Up to `FEEDS` different batches of real rows, tiled where there are too few."""
        count = rows(self.real)
        row_bytes = sum(array.nbytes for array in self.real.values()) / count
        number = max(1, min(FEEDS, count, int(FEEDS_BYTES / max(1.0, row_bytes * batch))))
        return [self.feed(batch, start * count // number) for start in range(number)]

    def feed(self, batch: int, start: int = 0) -> Feed:
        """One batch of real rows from row `start` on."""
        count, limit = rows(self.real), self.limit_rows or batch
        runs = []
        for first in range(0, batch, limit):
            # A model with a fixed batch runs a whole one for the last few rows.
            size = limit if self.fixed else min(limit, batch - first)
            chosen = [(start + first + offset) % count for offset in range(size)]
            runs.append(
                {name: np.ascontiguousarray(array[chosen]) for name, array in self.real.items()}
            )
        return runs

    def run(self, feed: Feed) -> None:
        """Answer one batch."""
        for tensors in feed:
            self.engine.run(tensors)

    def fails(self, batch: int, error: Exception) -> EngineError:
        """The sentence for a run that raised."""
        return EngineError(f"'{self.label}' fails at batch {batch}: {first_line(error)}.")


@contextmanager
def loaded(
    packages: list[Package],
    *,
    engine: str | None = None,
    options: EngineOptions | None = None,
    clock: Clock = perf_counter_ns,
) -> Iterator[list[Subject]]:
    """Load every package, side by side, and free them all at the end.

    engine: this one in place of what the manifests name. Packages whose inputs are the same as the
    first one's are fed its golden rows, so that all answer the same questions.
    """
    options = options or EngineOptions()
    first = golden.read(packages[0].serve).inputs
    with ExitStack() as stack:
        subjects = []
        for package, label in zip(packages, labels(packages), strict=True):
            setting = Setting.of(package, engine=engine, threads=options.threads)
            same = package.manifest.inputs == packages[0].manifest.inputs
            subject = opened(
                package,
                label,
                setting,
                options=options,
                real=first if same else golden.read(package.serve).inputs,
                clock=clock,
            )
            stack.callback(subject.engine.close)
            subjects.append(subject)
        yield subjects


def opened(
    package: Package,
    label: str,
    setting: Setting,
    *,
    real: Tensors,
    options: EngineOptions | None = None,
    clock: Clock = perf_counter_ns,
) -> Subject:
    """Load one package as `setting` has it, which wins over `options`, to be fed rows of `real`.

    It is loaded by the rules that servers load it by, so a package that was proven in bf16 is
    timed in bf16. Raises `EngineError`; the caller closes the engine.
    """
    # Imported first, or its tenth of a second would count as the first package's loading.
    import onnxruntime  # noqa: F401

    manifest = msgspec.structs.replace(
        package.manifest, engine=setting.engine, precision=setting.precision
    )
    options = msgspec.structs.replace(
        options or EngineOptions(), threads=setting.threads, precision=setting.precision
    )
    begun = clock()
    engine = engines.open_package(package.path, manifest, options)
    load_ms = (clock() - begun) / 1e6
    return Subject(
        package=package,
        label=label,
        engine=engine,
        how=setting,
        load_ms=load_ms,
        real=real,
        limit_rows=manifest.fixed_batch or manifest.batch.max_batch,
        fixed=manifest.fixed_batch is not None,
    )


def with_threads(options: EngineOptions, hardware: Hardware | None = None) -> EngineOptions:
    """The options with 0 threads replaced by the physical cores that this process may use."""
    if options.threads:
        return options
    from mlserve_cli.runtime.hardware import detect

    cores = (hardware or detect()).physical_cores
    return msgspec.structs.replace(options, threads=cores)


def labels(packages: list[Package]) -> list[str]:
    """A name for each package: its folder's, or its path where two folders have the same.

    One that is given twice, to see how much is noise, is numbered.
    """
    found: list[str] = []
    for package in packages:
        name = package.label
        places = {other.path for other in packages if other.label == name}
        label = name if len(places) == 1 else str(package.path)
        times = sum(package.path == other.path for other in packages[: len(found) + 1])
        found.append(label if times == 1 else f"{label} ({times})")
    return found


def timed(
    subject: Subject,
    batch: int,
    feeds: list[Feed],
    *,
    seconds: float,
    at_least: int,
    clock: Clock = perf_counter_ns,
) -> Array:
    """One visit: run for `seconds` and at least `at_least` times → (runs,) float64 nanoseconds.

    The first run of a visit is not counted: it finds the caches full of another model.
    """
    found: list[int] = []
    try:
        subject.run(feeds[-1])
        begun = now = clock()
        limit = begun + int(seconds * 1e9)
        while now < limit or len(found) < at_least:
            feed = feeds[len(found) % len(feeds)]
            before = clock()
            subject.run(feed)
            now = clock()
            found.append(now - before)
    except Exception as error:  # an engine raises its library's own errors
        raise subject.fails(batch, error) from error
    return np.array(found, dtype=np.float64)
