"""Ids of requests and traces."""

import pytest

from mlserve_cli.runtime.monitoring.record import LONGEST_ID, new_id, sent_id, trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_no_two_requests_have_the_same_id() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "header",
    [b"", b"a\r\nset-cookie: b", b"\x00", "é".encode(), b"x" * (LONGEST_ID + 1)],
)
def test_an_id_that_could_not_stand_in_a_log_line_is_not_taken_over(header: bytes) -> None:
    assert sent_id(header) is None


def test_a_client_keeps_its_own_id() -> None:
    assert sent_id(b"order-42/a") == "order-42/a"


def test_the_trace_is_read_from_the_second_field() -> None:
    assert trace_id(f"00-{TRACE}-00f067aa0ba902b7-01") == TRACE


@pytest.mark.parametrize(
    "header", ["", "00", f"00-{TRACE}", f"00-{'0' * 32}-00f067aa0ba902b7-01", "00-Z-Z-01"]
)
def test_a_header_that_names_no_trace_is_passed_over(header: str) -> None:
    assert trace_id(header) is None
