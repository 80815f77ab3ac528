"""A package as LoadGen's system under test, in LoadGen's process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlserve_cli.bench.mlperf.system import Answers, Sample
from mlserve_cli.bench.mlperf.task import Local
from mlserve_cli.bench.subject import Setting, opened
from mlserve_cli.errors import first_line
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.protocols import binary_tensors
from mlserve_cli.runtime.protocols.oip_messages import InferInput
from mlserve_cli.runtime.tensors import Tensors, datatype_of, rows

_decode = msgspec.msgpack.Decoder(dict[str, tuple[str, list[int], bytes]]).decode
"""Outputs by name: datatype, shape, bytes."""


class LocalSystem:
    """Golden rows, one a sample. queued: what comes is answered by a thread, as many samples
    together as wait; else it is answered before `issue` returns."""

    def __init__(self, target: Local, *, queued: bool, whole: bool) -> None:
        package = Package.open(Path(target.package))
        self._rows = golden.read(package.serve).inputs
        setting = Setting(engine=target.engine, precision=target.precision, threads=target.threads)
        self._subject = opened(package, package.label, setting, real=self._rows)
        self._limit = min(self._subject.limit_rows or target.batch, target.batch)
        if self._subject.fixed:
            self._limit = self._subject.limit_rows or 1
        self.count = rows(self._rows)
        self.answers = Answers(whole=whole)
        self._waiting: deque[Sample] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        if queued:
            self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
            self._thread.start()

    def issue(self, samples: Sequence[Sample]) -> None:
        """Answer, or have it answered."""
        if self._thread is None:
            for first in range(0, len(samples), self._limit):
                self._answer(samples[first : first + self._limit])
            return
        with self._changed:
            self._waiting.extend(samples)
            self._changed.notify()

    def close(self) -> None:
        """End the thread and free the engine."""
        if self._thread is not None:
            with self._changed:
                self._closed = True
                self._changed.notify()
            self._thread.join()
        self._subject.engine.close()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                count = min(self._limit, len(self._waiting))
                samples = [self._waiting.popleft() for _ in range(count)]
            self._answer(samples)

    def _answer(self, samples: Sequence[Sample]) -> None:
        identities = [sample.identity for sample in samples]
        chosen = [sample.index for sample in samples]
        if self._subject.fixed:  # a whole batch is run, whatever it holds
            chosen += chosen[:1] * (self._limit - len(chosen))
        try:
            outputs = self._subject.engine.run(
                {name: np.ascontiguousarray(array[chosen]) for name, array in self._rows.items()}
            )
            bodies = list(_bodies(outputs, len(samples))) if self.answers.whole else None
        except Exception as error:  # an engine raises its library's own errors
            self.answers.fail(identities, first_line(error))
            return
        self.answers.give(identities, bodies)


def _bodies(outputs: Tensors, count: int) -> Iterator[bytes]:
    for row in range(count):
        entries: dict[str, Any] = {}
        for name, array in outputs.items():
            one = array[row : row + 1]
            entries[name] = [datatype_of(one), list(one.shape), bytes(binary_tensors.encode(one))]
        yield msgspec.msgpack.encode(entries)


def tensors(body: bytes) -> Tensors:
    """What `_bodies` wrote: outputs by name, of one row."""
    found: Tensors = {}
    for name, (datatype, shape, raw) in _decode(body).items():
        item = InferInput(name, shape, datatype)
        found[name] = binary_tensors.decode(item, raw, 0, len(raw))
    return found
