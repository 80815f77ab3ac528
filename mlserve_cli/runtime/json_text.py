"""JSON as model servers speak it: strict and fast, but NaN and Infinity may stand in it.

RFC 8259 has no such numbers; TensorFlow Serving, Triton and their clients send and expect the
bare tokens. msgspec refuses them, so the slower parser of the standard library is the fallback.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from .errors import InvalidRequest

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_REFUSED = "failed to parse the request JSON buffer"


def decode(text: bytes | memoryview, decoder: msgspec.json.Decoder[T]) -> T:
    """Parse `text` into the decoder's type. Raises `InvalidRequest` with the place and reason."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{_REFUSED}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        whole = bytes(text)
        if b"NaN" not in whole and b"Infinity" not in whole:
            raise InvalidRequest(f"{_REFUSED}: {error}") from error
        return _decode_with_tokens(whole, decoder.type)
    except RecursionError as error:
        raise InvalidRequest(f"{_REFUSED}: it is nested too deeply") from error


def _decode_with_tokens(text: bytes, target: type[T]) -> T:
    try:
        found = json.loads(text.decode("utf-8"))
        if b"\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # raises on half a surrogate pair
        return msgspec.convert(found, target)
    except RecursionError as error:
        raise InvalidRequest(f"{_REFUSED}: it is nested too deeply") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidRequest(f"{_REFUSED}: {error}") from error


def encode(document: Any, *, finite: bool = True) -> bytes:
    """Write JSON. With `finite` false the document may hold NaN and infinities: bare tokens."""
    if finite:
        return _encoder.encode(document)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
