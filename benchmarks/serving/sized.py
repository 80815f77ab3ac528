"""`mlserve up` with numbers of one's own: `python sized.py PKG THREADS MAX_BATCH`.

`up` measures what suits the machine; a comparison wants the same numbers on both sides.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlserve_cli.package.package import Package
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing


def command(package: Package, *, threads: int, max_batch: int) -> list[str]:
    """The command that serves a package in this way, at a free port."""
    return [sys.executable, __file__, str(package.path), str(threads), str(max_batch)]


def main() -> None:
    path, threads, max_batch = sys.argv[1:]
    source = Path(path).resolve()
    sizing = Sizing(threads=int(threads), max_batch=int(max_batch))
    name = Package.open(source).manifest.name
    server = Server(Settings(port=0, models=str(source), sizing={name: sizing}), source)
    serve(build_app(server), server)


if __name__ == "__main__":
    main()
