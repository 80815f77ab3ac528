"""A file of the input, on this machine or behind an fsspec URL, and what tells that it changed."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mlserve_cli.errors import DataError, first_line, needs_extra, without_secrets

REMOTE_BLOCK_BYTES = 8 << 20
"""What is fetched at once of a remote file that is read from its beginning to its end."""

S3_ATTEMPTS = 2
"""Of botocore for a request. s3fs asks botocore five times and waits 15 s for an answer each time:
with botocore's own five attempts a store that is silent would hold a job up for six minutes."""


DAMAGED = (OSError, EOFError, zlib.error)
"""What reading raises of a file that a disk does not give, or that ends early or is damaged; gzip
has an error of its own for each."""


@dataclass(frozen=True, slots=True)
class Location:
    """One file.

    name: as it was found, and as errors and rejects call it, without the secrets of a URL. size: in
    bytes. stamp: changes with the content: the time of the last change, or a store's ETag. label:
    what tells it from its neighbours, the path below the folder that was named. url: where a remote
    one is read.
    """

    name: str
    size: int
    stamp: str
    label: str
    url: str | None = field(default=None, repr=False)

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL."""
        return self.url is not None

    @property
    def suffix(self) -> str:
        """`.csv` of `rows.csv`, and of `rows.csv.gz`; in small letters."""
        path = Path(self.name.lower())
        return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix

    def open(self) -> BinaryIO:
        """The bytes, from the beginning. Raises `DataError`."""
        try:
            if self.url is not None:
                system, path = file_system(self.url)
                file = system.open(path, "rb", block_size=REMOTE_BLOCK_BYTES)
            else:
                file = Path(self.name).open("rb")  # noqa: SIM115 - the caller closes it
        except Exception as error:  # each file system has its own
            raise unreadable(self.name, error) from error
        if self.name.lower().endswith(".gz"):
            compressed = gzip.GzipFile(fileobj=file)
            compressed.myfileobj = file  # which it then closes as well
            return compressed  # type: ignore[return-value]
        opened: BinaryIO = file
        return opened

    def read(self) -> bytes:
        """All the bytes. Raises `DataError`."""
        try:
            if self.url is not None:
                system, path = file_system(self.url)
                content: bytes = system.cat_file(path)
                return content
            return Path(self.name).read_bytes()
        except Exception as error:
            raise unreadable(self.name, error) from error


def is_url(text: str) -> bool:
    """Whether it is an fsspec URL, such as s3://bucket/rows.parquet."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.isalnum()


def local(text: str) -> str:
    """The path of a file:// URL; everything else as it is."""
    return text.removeprefix("file://") if text.startswith("file://") else text


def file_system(url: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it). Raises `MissingExtra` and `DataError`."""
    scheme = url.partition("://")[0]
    with needs_extra("batch", f"read and write {scheme}:// URLs"):
        import fsspec
    try:
        system, path = fsspec.core.url_to_fs(url, **_patience(scheme))
    except ImportError as error:  # fsspec says which package a scheme needs
        raise DataError(
            f"'{url}' cannot be reached: {first_line(error)}.",
            hint="pip install 'mlserve-cli[s3]'" if scheme in ("s3", "s3a") else None,
        ) from error
    except (ValueError, OSError) as error:
        raise DataError(f"'{url}' cannot be reached: {first_line(error)}.") from error
    return system, path


def _patience(scheme: str) -> dict[str, Any]:
    """How long a store may be silent, unless fsspec's or AWS's own configuration says."""
    if scheme not in ("s3", "s3a") or "AWS_MAX_ATTEMPTS" in os.environ:
        return {}
    from fsspec.config import conf

    config: dict[str, Any] = {"retries": {"total_max_attempts": S3_ATTEMPTS}}
    for name in ("s3", "s3a"):
        config |= conf.get(name, {}).get("config_kwargs", {})
    return {"config_kwargs": config}


def of_path(path: Path, label: str | None = None) -> Location:
    """The file at a local path. Raises `DataError`."""
    try:
        found = path.stat()
    except OSError as error:
        raise unreadable(str(path), error) from error
    return Location(str(path), found.st_size, str(found.st_mtime_ns), label or path.name)


def of_info(url: str, info: dict[str, Any], label: str | None = None) -> Location:
    """The file that a remote file system's `info` describes."""
    marks = ("ETag", "etag", "version_id", "md5", "LastModified", "mtime", "created")
    stamp = next((str(info[mark]) for mark in marks if info.get(mark)), "")
    name = without_secrets(url)
    size = int(info.get("size") or 0)
    return Location(name, size, stamp, label or name.rpartition("/")[2], url)


def unreadable(name: str, error: Exception) -> DataError:
    """The error for a file that cannot be read, whatever its file system raised."""
    if isinstance(error, DataError):
        return error
    if isinstance(error, FileNotFoundError):
        return DataError(f"'{name}' does not exist.")
    reason = getattr(error, "strerror", None) or first_line(error)
    return DataError(f"'{name}' cannot be read: {reason}.")
