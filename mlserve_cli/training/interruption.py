"""Ctrl-C and SIGTERM wait for the end of the step, so that it can be written down whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Deferred:
    """While the block runs, a first signal is noted; a second one goes where it went before.

    Only the main thread may do this; in any other the block changes nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._received: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Deferred:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):  # not where it is ignored, or kills at once
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_back()
        if error is None:
            self.deliver()

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._received is not None

    def deliver(self) -> None:
        """Let the signal do what it would have done; nothing if none came."""
        if self._received is None:
            return
        (number, frame), self._received = self._received, None
        handler = self._before.get(number)
        self._give_back()
        if callable(handler):
            handler(number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            self.deliver()
        self._received = (number, frame)

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
