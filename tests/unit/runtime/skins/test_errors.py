from __future__ import annotations

import inspect

import pytest

from mlserve_cli.runtime import errors
from mlserve_cli.runtime.errors import InvalidRequest, Overloaded, RequestError, TooLarge
from mlserve_cli.runtime.protocols import errors as wire


def kinds() -> list[type[RequestError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, RequestError)
    ]


@pytest.mark.parametrize("kind", kinds())
def test_every_error_for_a_client_has_a_status_and_a_reason(kind: type[RequestError]) -> None:
    assert 400 <= kind.status < 600
    assert kind.reason.isidentifier()
    assert wire.encode(kind("why")) == b'{"error":"why"}'


def test_a_hint_and_the_time_to_come_back_are_sent_along() -> None:
    error = Overloaded("full", hint="wait", retry_after_s=3)
    assert wire.encode(error) == b'{"error":"full","hint":"wait"}'
    assert wire.headers(error) == [(b"retry-after", b"3")]


def test_a_body_that_is_too_large_ends_its_connection() -> None:
    assert wire.headers(TooLarge("x")) == [(b"connection", b"close")]


def test_a_quoted_name_that_is_no_text_can_still_be_told() -> None:
    assert wire.encode(InvalidRequest("no '\ud800'")) == b'{"error":"no \'?\'"}'


def test_what_a_client_sent_is_not_quoted_at_any_length() -> None:
    assert len(wire.encode(InvalidRequest("no " + "x" * 1_000_000))) < 3000
