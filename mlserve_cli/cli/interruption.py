"""Ctrl-C and SIGTERM: both end a command the same way, so that what is half written is swept up."""

from __future__ import annotations

import signal
from types import FrameType

from mlserve_cli.errors import Exit


def watch() -> list[int]:
    """From now on both signals raise KeyboardInterrupt; return the list of those that came.

    A server takes both over for as long as it serves.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & ask for
            signal.signal(number, interrupt)
    return received


def status(received: list[int]) -> int:
    """The exit status of an interrupted command, as shells report the signal."""
    return 128 + received[0] if received else int(Exit.INTERRUPTED)
