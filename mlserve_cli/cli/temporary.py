"""Where the temporary files of a step lie: in one folder a process, swept up after a kill.

All that `tempfile` makes falls into it, ours and that of libraries.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "mlserve-process-"


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """For as long as the block runs, `tempfile` writes into a folder of this process.

    Where none can be made, `tempfile` goes on as before: what needs room will say so.
    """
    from mlserve_cli.package import scratch

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            place = stack.enter_context(scratch.folder(Path(tempfile.gettempdir()), PREFIX))
            stack.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
            tempfile.tempdir = str(place)
        yield
