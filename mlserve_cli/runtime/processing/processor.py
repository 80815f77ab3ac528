"""A package's processing, put together: payload → rows → tensors, and outputs → answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..tensors import Tensors
from . import multipart


@dataclass(frozen=True, slots=True)
class Payload:
    """A request's body and its content type."""

    body: bytes
    content_type: str


class Reader(Protocol):
    """The input side. Errors are `InvalidRequest` or `UnsupportedMedia`; rows count from 0."""

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """Split a request's body into rows: parsed JSON, or the bytes of a file."""
        ...

    def form(self, fields: dict[str, str | bytes]) -> list[Any]:
        """Turn the fields of a form into rows; files are bytes."""
        ...

    def tensors(self, rows: list[Any]) -> Tensors:
        """Turn rows into the model's inputs, one row of every tensor each."""
        ...

    def example(self, inputs: Tensors) -> Payload | None:
        """A payload that becomes the first row of `inputs`; None where there is no telling."""
        ...


class Writer(Protocol):
    """The output side."""

    def answers(self, outputs: Tensors, payloads: list[Any] | None = None) -> list[Any]:
        """One JSON value a row of the outputs.

        payloads: the rows that became the inputs, where they are known; a few answers need them.
        """
        ...


class Processor:
    """What stands between a payload and the tensors. Its methods may run on several threads."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader = reader
        self.writer = writer

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """Split a body into rows. Raises `InvalidRequest` or `UnsupportedMedia`."""
        if multipart.is_form(content_type):
            return multipart.rows(self.reader, body, content_type)
        return self.reader.rows(body, content_type)

    def tensors(self, rows: list[Any]) -> Tensors:
        """Rows → inputs. Raises `InvalidRequest` naming the row, the column and what is allowed."""
        return self.reader.tensors(rows)

    def answers(self, outputs: Tensors, payloads: list[Any] | None = None) -> list[Any]:
        """Outputs → one JSON value a row; `payloads` are the rows that became the inputs."""
        return self.writer.answers(outputs, payloads)

    def example(self, inputs: Tensors) -> Payload | None:
        """A payload that becomes the first row of `inputs` (golden ones); None if none can."""
        return self.reader.example(inputs)
