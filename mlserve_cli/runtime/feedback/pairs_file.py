"""`feedback.jsonl`: decisions with their truths, one JSON object a line, for those who analyse.

{"time": "2026-01-31T12:00:00.123Z", "model": "iris", "version": "2", "arm": "canary",
 "id": "order-42", "row": 0, "prediction": 1, "truth": "versicolor"}

It takes at most the space that it was given: when half of that is full, the file becomes
`feedback.jsonl.1` in place of the one before, and a new one begins.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from ..monitoring import logs

log = logging.getLogger(f"{logs.NAME}.feedback")

FILE = "feedback.jsonl"


class PairsFile:
    """The file in `folder` and the one before it, `limit_bytes` together. It only stores."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.path = folder / FILE
        self._half = limit_bytes // 2
        self._turn = asyncio.Lock()

    async def append(self, lines: list[bytes]) -> bool:
        """Write lines, on a thread → whether they are all in the file. Never raises."""
        async with self._turn:
            return await asyncio.to_thread(self._append, lines)

    def _append(self, lines: list[bytes]) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while lines:
                lines = lines[self._write(lines) :]
        except OSError as error:
            log.warning("'%s' cannot be written: %s", self.path, error.strerror)
            return False
        return True

    def _write(self, lines: list[bytes]) -> int:
        """Write as many lines as there is room for, at least one; their number."""
        # Owner only: labels and ids may say something about people.
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and size + len(lines[0]) + 1 > self._half:
                self.path.replace(self.path.with_name(FILE + ".1"))
                return 0
            # A crash may have left half a line, which must not swallow the next one.
            text = [b"\n"] if size and os.pread(file, 1, size - 1) != b"\n" else []
            count = 0
            for line in lines:
                size += len(line) + 1
                if count and size > self._half:
                    break
                text += (line, b"\n")
                count += 1
            _write_all(file, b"".join(text))
            return count
        finally:
            os.close(file)


def _write_all(file: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(file, view) :]
