"""Payload → tensors → answer. `declaration` is the data, the other modules carry it out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PackageError
from .declaration import (
    ClassesOutput,
    ImageInput,
    TableInput,
    TextInput,
    TokensOutput,
    ValuesOutput,
)
from .processor import Processor, Reader, Writer

if TYPE_CHECKING:  # the manifest holds a declaration, so it is imported before this
    from ..manifest import Manifest

__all__ = ["Processor", "build"]


def build(manifest: Manifest, serve: Path) -> Processor:
    """Make what carries out the processing that `manifest` declares; `serve` holds its files.

    Raises `PackageError` when the declaration does not fit the model's signature, or a library
    that it needs (Pillow, tokenizers) is not installed.
    """
    reader = _reader(manifest, serve)
    writer = _writer(manifest, reader)
    python = manifest.processing.python
    if python is not None:
        from .python import UserProcessing

        user = UserProcessing(manifest, serve / python.file, reader, writer)
        reader, writer = user, user
    return Processor(reader, writer)


def _reader(manifest: Manifest, serve: Path) -> Reader:
    declared = manifest.processing.input
    match declared:
        case ImageInput():
            from .image import ImageReader

            return ImageReader(manifest, declared)
        case TableInput():
            from .table import TableReader

            return TableReader(manifest, declared)
        case TextInput():
            from .text import TextReader

            return TextReader(manifest, declared, serve)
        case None:
            from .plain import PlainReader

            return PlainReader(manifest)
    raise PackageError(f"the processing input {declared!r} is of no known kind.")


def _writer(manifest: Manifest, reader: Reader) -> Writer:
    from .outputs import ClassesWriter, PlainWriter, ValuesWriter

    declared = manifest.processing.output
    match declared:
        case ClassesOutput():
            return ClassesWriter(manifest, declared)
        case ValuesOutput():
            return ValuesWriter(manifest, declared)
        case TokensOutput():
            from .tokens import TokensWriter

            return TokensWriter(manifest, declared, reader)
        case None:
            return PlainWriter(manifest)
    raise PackageError(f"the processing output {declared!r} is of no known kind.")
