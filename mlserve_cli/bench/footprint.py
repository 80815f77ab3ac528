"""How much memory a package takes, and how long it takes to wake up: in a process of its own.

In one process with others nobody can tell whose memory it is: an allocator keeps what one of them
gave back. So each package is loaded and run once more, alone, with the same engine and threads.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec

from mlserve_cli.bench.leash import Leash
from mlserve_cli.bench.lineup import Entry
from mlserve_cli.bench.subject import Precision, Setting, opened

_PATIENCE_S = 300.0
_RUNS = 2  # the second run of a batch is where memory no longer grows


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    package: str
    engine: str
    precision: Precision
    threads: int
    batch_sizes: tuple[int, ...]


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Memory in bytes that is resident, and the times of a process that has just started.

    base_bytes: before the package is loaded; Python, NumPy and the engine's library.
    peak_bytes: batch size → the most while it was run, the base included.
    import_ms: of the engine's library. first_ms: the first answer, to one row.
    """

    base_bytes: int
    loaded_bytes: int
    peak_bytes: dict[int, int]
    import_ms: float
    load_ms: float
    first_ms: float

    @property
    def most_bytes(self) -> int:
        """The peak over all batch sizes."""
        return max([self.loaded_bytes, *self.peak_bytes.values()])

    def facts(self) -> dict[str, Any]:
        """For `--json`; batch sizes stand with their own figures."""
        return {
            "base_bytes": self.base_bytes,
            "loaded_bytes": self.loaded_bytes,
            "peak_bytes": self.most_bytes,
            "import_ms": self.import_ms,
            "load_ms": self.load_ms,
            "first_inference_ms": self.first_ms,
        }


def footprint(entry: Entry, batch_sizes: Sequence[int]) -> Footprint | None:
    """Start a process and look at it; None where the machine does not let us."""
    setting = entry.setting
    wish = _Wish(
        package=str(entry.package.path),
        engine=setting.engine,
        precision=setting.precision,
        threads=setting.threads,
        batch_sizes=tuple(sorted(batch_sizes)),
    )
    try:
        with (
            Leash() as leash,
            leash.start(
                __spec__.name,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process,
        ):
            try:
                told, _ = process.communicate(msgspec.json.encode(wish), timeout=_PATIENCE_S)
            except BaseException:
                process.kill()
                raise
        return msgspec.json.decode(told.rpartition(b"\n")[2], type=Footprint)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return None


def look(wish: _Wish) -> Footprint:
    """In the process of its own: load, run, and read what the kernel counts."""
    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime import engines, golden

    package = Package.open(Path(wish.package))
    real = golden.read(package.serve).inputs
    begun = perf_counter_ns()
    engines.devices(package.path, msgspec.structs.replace(package.manifest, engine=wish.engine))
    _import(wish.engine)
    import_ms = (perf_counter_ns() - begun) / 1e6
    base = _status("VmRSS")
    setting = Setting(engine=wish.engine, precision=wish.precision, threads=wish.threads)
    subject = opened(package, package.label, setting, real=real)
    loaded = _status("VmRSS")
    feed = subject.feed(1)
    begun = perf_counter_ns()
    subject.run(feed)
    first_ms = (perf_counter_ns() - begun) / 1e6
    peaks = {}
    for batch in wish.batch_sizes:
        _forget_peak()
        feed = subject.feed(batch)
        for _ in range(_RUNS):
            subject.run(feed)
        peaks[batch] = _status("VmHWM")
    subject.engine.close()
    return Footprint(
        base_bytes=base,
        loaded_bytes=loaded,
        peak_bytes=peaks,
        import_ms=import_ms,
        load_ms=subject.load_ms,
        first_ms=first_ms,
    )


def _import(engine: str) -> None:
    """What an engine imports only when it is made, so that it counts as the base."""
    import importlib

    for name in {"torch": ("torch",), "openvino": ("onnxruntime",)}.get(engine, ("onnxruntime",)):
        importlib.import_module(name)


def _status(field: str) -> int:
    """A field of proc(5)'s status of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the kernel says nothing of {field}")


def _forget_peak() -> None:
    """Begin VmHWM anew (proc(5), clear_refs); where that is not allowed it only ever grows."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


if __name__ == "__main__":
    found = look(msgspec.json.decode(sys.stdin.buffer.read(), type=_Wish))
    # On a line of its own: engines may have printed something.
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(found))
