"""A server of one package in a process of its own, run with given settings and asked by a load.

It is `mlserve up PKG --config FILE`, exactly what the numbers are meant for, and
ends with this process, however that ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from mlserve_cli.bench.leash import Leash
from mlserve_cli.bench.live import place, wire
from mlserve_cli.bench.live.place import Place
from mlserve_cli.bench.live.served import Served, Signature
from mlserve_cli.bench.load import Aim, Generator
from mlserve_cli.errors import StartupError
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.measuring import tiled
from mlserve_cli.runtime.settings import FILE, Settings, to_toml
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import rows

_PATIENCE_S = 120.0
_MESSAGES = 64  # different requests, sent in turn
_MOST_BYTES = 32 << 20  # that they may hold together


@dataclass(frozen=True, slots=True)
class Work:
    """What a server says that it did so far: sums since its start."""

    requests: float
    compute_s: float
    batches: float
    rows: float

    def since(self, before: Work) -> Work:
        """What came to it after `before`."""
        return Work(
            self.requests - before.requests,
            self.compute_s - before.compute_s,
            self.batches - before.batches,
            self.rows - before.rows,
        )


class TrialServer:
    """As a context: the server is ready inside it, and gone after it."""

    def __init__(
        self,
        package: Package,
        settings: Settings,
        *,
        rows: int = 1,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._package, self._settings, self._rows = package, settings, rows
        self._patience_s = patience_s
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._leash: Leash | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._place: Place | None = None
        self.sizing = Sizing()

    def __enter__(self) -> TrialServer:
        self._folder = tempfile.TemporaryDirectory(prefix="mlserve-plan-")
        try:
            self._start(Path(self._folder.name))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def aim(self) -> Aim:
        """Real rows of the package, as bytes of the Open Inference Protocol."""
        assert self._place is not None  # noqa: S101 - it has started
        manifest = self._package.manifest
        served = Served(
            protocol="oip-binary",
            model=manifest.name,
            signature=Signature(inputs=manifest.inputs, outputs=manifest.outputs),
            ours=True,
        )
        real = golden.read(self._package.serve).inputs
        count = rows(real)
        size = sum(array.nbytes for array in real.values()) // max(count, 1) * self._rows
        many = max(1, min(_MESSAGES, count, _MOST_BYTES // max(size, 1)))
        fixed = manifest.fixed_batch
        messages = []
        for number in range(many):
            if fixed is None:
                index = (np.arange(self._rows) + number * self._rows) % count
                part = {
                    name: np.ascontiguousarray(array[index]) if array.ndim else array
                    for name, array in real.items()
                }
            else:
                part = tiled(real, fixed)
            request = wire.request(served, part)
            messages.append(request.http(self._place, served.path))
        return Aim(host=self._place.host, port=self._place.port, messages=messages)

    def generator(self) -> Generator:
        """What sends to it."""
        return Generator(self.aim)

    def work(self) -> Work:
        """What it did so far, of its own metrics."""
        from prometheus_client.parser import text_string_to_metric_families

        assert self._place is not None  # noqa: S101
        text = place.ask(self._place, "GET", "/metrics").body.decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("stage", "compute") == "compute":
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return Work(
            requests=found.get("mlserve_stage_seconds_count", 0.0),
            compute_s=found.get("mlserve_stage_seconds_sum", 0.0),
            batches=found.get("mlserve_batch_rows_count", 0.0),
            rows=found.get("mlserve_batch_rows_sum", 0.0),
        )

    def peak_mib(self) -> float:
        """The most memory that it had so far; 0 where the system does not tell."""
        assert self._process is not None  # noqa: S101
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return 0.0
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def _start(self, folder: Path) -> None:
        file, log = folder / FILE, folder / "log"
        file.write_text(to_toml(self._settings), encoding="utf-8")
        arguments = ["up", str(self._package.path), "--config", str(file)]
        arguments += ["--host", "127.0.0.1", "--port", "0", "--json"]
        with log.open("w", encoding="utf-8") as words:
            self._leash = Leash()
            self._process = self._leash.start(
                "mlserve_cli",
                arguments,
                stdout=subprocess.PIPE,
                stderr=words,
                stdin=subprocess.DEVNULL,
                env=_environment(os.environ),
                start_new_session=True,  # a Ctrl-C is this side's to act on
            )
        document = self._announced(log)
        self._place = place.parse(document["url"])
        name = self._package.manifest.name
        for model in document["models"]:
            if model["name"] == name:
                self.sizing = msgspec.convert(model["sizing"], Sizing)

    def _announced(self, log: Path) -> dict[str, Any]:
        """The JSON document that it prints once it is ready."""
        assert self._process is not None and self._process.stdout is not None  # noqa: S101, PT018
        pipe = self._process.stdout.fileno()
        text, end = b"", time.monotonic() + self._patience_s
        while (left := end - time.monotonic()) > 0:
            if not select.select([pipe], [], [], left)[0]:
                continue
            piece = os.read(pipe, 1 << 16)
            if not piece:
                break
            text += piece
            if text.rstrip().endswith(b"\n}"):
                found: dict[str, Any] = json.loads(text)
                return found
        else:
            raise StartupError(
                f"the server with these numbers was not ready within {self._patience_s:g} s."
            )
        words = log.read_text(encoding="utf-8").strip().splitlines()
        said = next((line for line in words if line.startswith("error:")), "".join(words[-1:]))
        raise StartupError(
            f"the server with these numbers did not start: {said.removeprefix('error: ')}"
        )

    def _stop(self) -> None:
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # at once: no grace for load balancers
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._leash is not None:
            self._leash.close()
        if self._folder is not None:
            self._folder.cleanup()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Without settings of a server of the user's: the numbers alone are what is tried."""
    return {name: value for name, value in environ.items() if not name.startswith("MLSERVE_")}
