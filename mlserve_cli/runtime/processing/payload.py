"""What a request's body is, and the rows that JSON holds.

`curl -d` says `application/x-www-form-urlencoded` whatever it sends, and many clients say nothing:
where the content type does not tell, the first character does.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .. import json_text
from ..errors import InvalidRequest, UnsupportedMedia

Kind = Literal["json", "csv", "text", "file"]

_decoder = msgspec.json.Decoder(Any)
_ROWS = ("instances", "rows", "examples", "inputs")  # where the rows of a request stand
_SILENT = {"", "application/octet-stream", "application/x-www-form-urlencoded"}


def kind_of(body: bytes, content_type: str, *, otherwise: Kind) -> Kind:
    """The kind of `body`; `otherwise` is what it is where neither header nor content tell.

    Raises `UnsupportedMedia` for a type that no package takes.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media == "application/json" or media.endswith("+json"):
        return "json"
    if media == "text/csv":
        return "csv"
    if media.startswith("text/"):
        return "text"
    if media.startswith("image/"):
        return "file"
    if media in _SILENT:
        return "json" if body[:64].lstrip()[:1] in (b"{", b"[", b'"') else otherwise
    raise UnsupportedMedia(
        f"the content type '{media}' is not served",
        hint="send JSON, text, CSV or an image file, as the whole body or in a form",
    )


def refuse(kind: Kind, *, allowed: str) -> UnsupportedMedia:
    """The error for a body of a kind that this model does not take."""
    names = {"csv": "CSV", "text": "plain text", "file": "a file", "json": "JSON"}
    return UnsupportedMedia(f"this model does not take {names[kind]}", hint=f"send {allowed}")


def parse(body: bytes) -> Any:
    """Parse JSON of any shape; NaN and Infinity may stand in it. Raises `InvalidRequest`."""
    if not body.strip():
        raise InvalidRequest("the request has an empty body", hint="send at least one row")
    return json_text.decode(body, _decoder)


def json_rows(body: bytes) -> list[Any]:
    """One value, a list of them, `{"rows": […]}` or `{"instances": […]}` → a list of rows."""
    value = parse(body)
    if isinstance(value, dict) and len(value) == 1:
        ((key, held),) = value.items()
        if key in ("rows", "instances") and isinstance(held, list):
            value = held
    rows = value if isinstance(value, list) else [value]
    if not rows:
        raise InvalidRequest("the request holds no rows", hint="send at least one")
    return rows


def value_of(text: str) -> Any:
    """The JSON value that a field of a form holds; the text itself where it is no JSON."""
    try:
        return json_text.decode(text.encode("utf-8", "replace"), _decoder)
    except InvalidRequest:
        return text


def show(value: Any) -> str:
    """A value as an error names it: short, on one line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def lookup(value: Any, name: str) -> str | None:
    """A value by its name in a request's JSON: beside its rows, or in the first of them.

    For traffic that sticks to a user or the like; None where it is missing or no plain value.
    """
    places = [value]
    if isinstance(value, dict):
        places += [value[key] for key in _ROWS if key in value]
    for place in places:
        row = place[0] if isinstance(place, list) and place else place
        if not isinstance(row, dict) or name not in row:
            continue
        found = row[name]
        if isinstance(found, list) and len(found) == 1:
            (found,) = found
        if isinstance(found, (str, int, float)):
            return str(found)
    return None
