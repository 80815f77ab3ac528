"""A process that ends with the one that started it, also where that was killed.

Nobody can act on SIGKILL, so the child watches: it holds the reading end of a pipe whose writing
end only its parent has, and the kernel closes that with the parent. Run as

    python -m mlserve_cli.bench.leash FD MODULE ARGUMENTS…

this is `python -m MODULE ARGUMENTS…` on such a leash.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

_GRACE_S = 3.0
"""For a server to end what it began; nobody waits for the answers any more."""


class Leash:
    """The writing end, which this process holds for as long as the child may live."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def start(
        self, module: str, arguments: Sequence[str] = (), **options: Any
    ) -> subprocess.Popen[Any]:
        """`subprocess.Popen` of a module of ours, with its `options`."""
        command = [sys.executable, "-m", __name__, str(self._read), module, *arguments]
        return subprocess.Popen(  # noqa: S603 - our own modules
            command, pass_fds=(self._read,), **options
        )

    def close(self) -> None:
        """Ends the child, if it lives."""
        os.close(self._read)
        os.close(self._write)

    def __enter__(self) -> Leash:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def main() -> None:
    """Watch the leash, and be the module."""
    fd, module = int(sys.argv[1]), sys.argv[2]
    os.set_inheritable(fd, False)  # a grandchild is not to hold it
    threading.Thread(target=_watch, args=(fd,), name="leash", daemon=True).start()
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(fd: int) -> None:
    os.read(fd, 1)  # nothing is ever written: it returns when the other end is gone
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
