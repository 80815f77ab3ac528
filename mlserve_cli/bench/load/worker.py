"""A process of the generator: `python -m mlserve_cli.bench.load.worker`, told what to do on stdin.

It takes an aim, then runs jobs one after the other. A byte on stdin in the middle of one ends it
early, and so does the end of stdin: who started it is gone.
"""

from __future__ import annotations

import os
import signal
import sys

from mlserve_cli.bench.load.job import Aim, Failure, Job, Message, Ready, Tally, frame, read


def main() -> None:
    """Do what stdin says until it ends."""
    # Ctrl-C reaches the whole group of a terminal; who started this process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fd, out = sys.stdin.fileno(), sys.stdout.fileno()

    def take(count: int) -> bytes:
        found = bytearray()
        while len(found) < count and (piece := os.read(fd, count - len(found))):
            found += piece
        return bytes(found)

    def tell(message: Message) -> None:
        text = memoryview(frame(message))
        while len(text):
            text = text[os.write(out, text) :]

    aim: Aim | None = None
    tell(Ready())
    try:
        while (message := read(take)) is not None:
            if isinstance(message, Aim):
                aim = message
                tell(Ready())
            elif isinstance(message, Job) and aim is not None:
                tell(_done(aim, message, fd))
    except BrokenPipeError:
        return


def _done(aim: Aim, job: Job, stop_fd: int) -> Tally | Failure:
    try:
        if aim.kind == "grpc":
            from mlserve_cli.bench.load.grpc_load import GrpcLoad

            return GrpcLoad(aim, job, stop_fd).run()
        from mlserve_cli.bench.load.http_load import HttpLoad

        return HttpLoad(aim, job, stop_fd).run()
    except Exception as error:  # told in the process that a person sees
        return Failure(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
