"""Forms (`multipart/form-data`): files are payloads like whole bodies, fields make up one row.

What is read is RFC 7578, by the rules of RFC 2046, 5.1.1. A body is in memory already, so it is cut
at its boundaries; how many parts and how long their heads may be is limited.
"""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequest
from . import payload

if TYPE_CHECKING:
    from .processor import Reader

LIMIT_PARTS = 1000
"""More files or fields than anyone fills in; a body could hold millions of empty ones."""

_HEAD_BYTES = 8 << 10  # of one part's headers; a name and a file name take some hundred
_END = b"\r\n\r\n"
_WHOLE = ("data", "body")  # a lone field of such a name is the payload itself, as in TorchServe
_SUFFIXES = {".csv": "text/csv", ".json": "application/json", ".txt": "text/plain"}
_UNTOLD = ("", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Part:
    """One file or field of a form."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a payload of its own; plain text without a file name is a field."""
        return self.filename is not None or self.content_type not in ("", "text/plain")

    @property
    def kind(self) -> str:
        """Its content type; where that says nothing, the end of its file name may."""
        if self.content_type not in _UNTOLD or self.filename is None:
            return self.content_type
        ends = (kind for suffix, kind in _SUFFIXES.items() if self.filename.endswith(suffix))
        return next(ends, self.content_type)

    def text(self) -> str:
        """The value of a field. Raises `InvalidRequest`."""
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the field '{self.name}' of the form is not UTF-8") from error


def is_form(content_type: str) -> bool:
    """Whether a content type is a form's."""
    return content_type[:19].lower() == "multipart/form-data"


def rows(reader: Reader, body: bytes, content_type: str) -> list[Any]:
    """The rows of a form: those of each file, or the one that the fields make up.

    Raises `InvalidRequest`, and what the reader raises.
    """
    parts = parse(body, content_type)
    files = [part for part in parts if part.is_file]
    if len(parts) == 1 and not files and parts[0].name in _WHOLE:
        return reader.rows(parts[0].content, "")
    if len(files) == len(parts):
        return [row for part in files for row in reader.rows(part.content, part.kind)]
    fields: dict[str, str | bytes] = {}
    for part in parts:
        if part.name in fields:
            raise InvalidRequest(f"the form has two fields '{part.name}'")
        fields[part.name] = part.content if part.is_file else part.text()
    return reader.form(fields)


def only_text(fields: dict[str, str | bytes]) -> dict[str, str]:
    """The fields of a form without files. Raises `InvalidRequest` where it has one."""
    texts: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, bytes):
            raise InvalidRequest(
                f"the form has a file '{name}' beside fields, and this model takes either",
                hint="send the file alone, or the fields alone",
            )
        texts[name] = value
    return texts


def lookup(body: bytes, content_type: str, name: str) -> str | None:
    """A value by its name in any kind of body; None where it is missing or nothing can be read."""
    try:
        if not is_form(content_type):
            return payload.lookup(payload.parse(body), name)
        parts = parse(body, content_type)
        return next((part.text() for part in parts if part.name == name and not part.is_file), None)
    except InvalidRequest:  # it is told when the rows are read
        return None


def parse(body: bytes, content_type: str) -> list[Part]:
    """The parts of a form, in its order. Raises `InvalidRequest`."""
    boundary = _headers(b"Content-Type: " + content_type.encode("latin-1")).get_boundary()
    if not boundary or len(boundary) > 70:  # RFC 2046 has no longer ones
        raise InvalidRequest(
            "the form has no boundary",
            hint="let the HTTP library write the header Content-Type",
        )
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    if not body.startswith(delimiter[2:]):
        body = body[max(body.find(delimiter), 0) :]  # what comes before the first part says nothing
    else:
        body = b"\r\n" + body
    _, *pieces = body.split(delimiter, LIMIT_PARTS + 2)
    parts: list[Part] = []
    for piece in pieces:
        if piece.startswith(b"--"):
            found = [part for part in parts if part.filename != "" or part.content]
            if not found:
                raise InvalidRequest("the form is empty", hint="send a file or fields")
            return found
        if len(parts) == LIMIT_PARTS:
            raise InvalidRequest(f"the form has more than {LIMIT_PARTS} parts")
        parts.append(_part(piece, len(parts)))
    raise InvalidRequest("the form ends before its last boundary")


def _part(piece: bytes, number: int) -> Part:
    end = piece.find(_END, 0, _HEAD_BYTES)
    if end < 0:
        raise InvalidRequest(
            f"part {number} of the form has no end of its headers within {_HEAD_BYTES} bytes"
        )
    head = _headers(piece[:end].strip())
    name = head.get_param("name", header="content-disposition")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"part {number} of the form has no name")
    encoding = str(head.get("content-transfer-encoding", "binary")).strip().lower()
    if encoding not in ("binary", "8bit", "7bit"):
        raise InvalidRequest(
            f"'{name}' of the form is encoded as '{encoding}'", hint="send it as it is (binary)"
        )
    return Part(
        name=name,
        content=piece[end + len(_END) :],
        filename=head.get_filename(),
        content_type=head.get_content_type() if "content-type" in head else "",
    )


def _headers(text: bytes) -> Message:
    # Browsers write names that are not ASCII as they are, in UTF-8.
    return message_from_string(text.decode("utf-8", "replace") + "\n\n")
