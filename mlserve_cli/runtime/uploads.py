"""A package that comes in over HTTP, as a tar: unpacked on the disk of the repository.

Only plain files and folders below the package are taken; a tar can also hold links, devices and
paths that lead elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from . import delivery
from .body import Disconnected, Receive
from .errors import Conflict, InvalidRequest, NotImplementedHere, TooLarge

_MEMBERS = 10_000  # a package has a dozen; each costs an inode
_NAMES = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL})
"""What the names in a tar may be to blame for, and never the disk."""

_WRITE_BYTES = 1 << 20  # a hop to a thread for every few kilobytes would cost more than the disk


@asynccontextmanager
async def unpacked(receive: Receive, repository: Path, *, limit_bytes: int) -> AsyncIterator[Path]:
    """The folder of a package whose tar is the body; it is gone after the block, unless moved.

    Raises `InvalidRequest` for what is no such tar, `Conflict` where the disk takes no writes,
    `TooLarge`, and `Disconnected`.
    """
    draft = delivery.draft(repository)
    try:
        hidden = await asyncio.to_thread(draft.__enter__)
    except OSError as error:
        raise _unwritable(error) from error
    try:
        file, folder = hidden / "package.tar", hidden / "package"
        try:
            await _write(receive, file, limit_bytes)
            await asyncio.to_thread(_unpack, file, folder, limit_bytes)
        except OSError as error:
            raise _unwritable(error) from error
        yield folder
    finally:
        await asyncio.to_thread(draft.__exit__, None, None, None)


async def _write(receive: Receive, path: Path, limit_bytes: int) -> None:
    size = held = 0
    waiting: list[bytes] = []
    more = True
    with await asyncio.to_thread(path.open, "wb") as file:
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            held += len(part)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            waiting.append(part)
            if not more or held >= _WRITE_BYTES:
                await asyncio.to_thread(file.write, b"".join(waiting))
                waiting.clear()
                held = 0


def _unpack(file: Path, folder: Path, limit_bytes: int) -> None:
    if not hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3
        raise NotImplementedHere(
            "this server's Python cannot unpack a tar safely", hint="Python 3.11.4 or newer can"
        )
    folder.mkdir()
    try:
        with tarfile.open(file, "r:") as archive:
            size = 0
            for count, member in enumerate(archive, 1):
                size += member.size
                if size > limit_bytes:
                    raise _too_large(limit_bytes)
                if count > _MEMBERS:
                    raise InvalidRequest(f"the package holds more than {_MEMBERS} files")
                if not (member.isreg() or member.isdir()):
                    raise InvalidRequest(
                        f"the package holds '{member.name}', which is neither a file nor a folder"
                    )
                archive.extract(member, folder, filter="data")
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"the body is no tar of a package: {error}") from error
    except OSError as error:
        if error.errno not in _NAMES:
            raise
        raise InvalidRequest(f"the body is no tar of a package: {error.strerror}") from error
    file.unlink()


def _unwritable(error: OSError) -> Conflict:
    return Conflict(f"the repository takes no writes: {error.strerror or error}")


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"the package is larger than {limit_bytes} bytes",
        hint="the setting max_package_mb raises the limit",
    )
