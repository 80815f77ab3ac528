"""Ranges that were found before: a small JSON file for each model, data and method.

The key is a digest of all that the ranges follow from: the prepared model with its weights, the
calibration rows, the method with its parameters, the names of the tensors, and the versions of
this code and of ONNX Runtime. Another model's ranges can therefore not be taken, whatever its
tensors are called. What is damaged is as good as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.quantize.calibration.collection import Collected
from mlserve_cli.quantize.calibration.range import Range
from mlserve_cli.quantize.calibration.rows import CalibrationRows

if TYPE_CHECKING:
    from onnx import ModelProto

_VERSION = 1
"""Raised when the same model, rows and method would give other ranges."""

KEPT = 200
"""Files; a few kilobytes each. The oldest go."""


class RangeCache:
    """A folder of found ranges; `$XDG_CACHE_HOME/mlserve/calibration` unless told otherwise."""

    def __init__(self, folder: Path | None = None) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._folder = folder or Path(home) / "mlserve" / "calibration"

    def read(self, key: str, tensors: Sequence[str]) -> Collected | None:
        """What was kept under `key`, if it is whole and covers exactly these tensors."""
        try:
            kept = json.loads(self._path(key).read_text(encoding="utf-8"))
            found = _collected(kept)
            whole = kept["key"] == key and kept["sum"] == _sum(kept["body"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        fits = found.ranges.keys() == set(tensors) and all(
            math.isfinite(item.low) and math.isfinite(item.high) and item.low <= item.high
            for item in found.ranges.values()
        )
        return found if whole and fits else None

    def write(self, key: str, collected: Collected) -> None:
        """Keep what was found; a place that cannot be written is no error."""
        body = {
            "ranges": {name: [item.low, item.high] for name, item in collected.ranges.items()},
            "rows": collected.rows,
            "batches": collected.batches,
            "growth": dict(collected.growth),
        }
        hidden = self._folder / f".{key}.{secrets.token_hex(4)}.part"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            record = {"key": key, "sum": _sum(body), "body": body}
            hidden.write_text(json.dumps(record) + "\n", encoding="utf-8")
            hidden.replace(self._path(key))
            files = sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
            for file in files[:-KEPT]:
                file.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def key(
    model: ModelProto, calibration: CalibrationRows, method: str, tensors: Sequence[str]
) -> str:
    """The digest of everything that the ranges follow from."""
    import onnxruntime

    digest = hashlib.sha256()
    for part in (
        str(_VERSION).encode(),
        onnxruntime.__version__.encode(),
        model.SerializeToString(deterministic=True),
        calibration.digest.encode(),
        method.encode(),
        json.dumps(sorted(tensors)).encode(),
    ):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _sum(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _collected(kept: Any) -> Collected:
    body = kept["body"]
    return Collected(
        ranges={name: Range(float(a), float(b)) for name, (a, b) in body["ranges"].items()},
        rows=int(body["rows"]),
        batches=int(body["batches"]),
        growth={name: float(value) for name, value in body["growth"].items()},
    )
