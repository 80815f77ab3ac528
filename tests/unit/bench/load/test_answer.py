"""Answers that come in pieces of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.bench.load.answer import Answer, Malformed


def fed(text, sizes):
    """Feed `text` in pieces of those sizes; the answer, and how many bytes it took."""
    answer, at = Answer(), 0
    for size in [*sizes, len(text)]:
        piece = text[at : at + size]
        at += len(piece)
        if answer.feed(piece):
            break
    return answer, at


SIZES = st.lists(st.integers(1, 30), max_size=60)


@given(st.binary(max_size=200), SIZES)
def test_an_answer_of_known_length_is_whole_with_its_last_byte(body, sizes):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nCONTENT-LENGTH: %d\r\n\r\n" % len(body)
    answer, taken = fed(head + body, sizes)
    assert (answer.status, answer.body, taken) == (b"200", body, len(head + body))
    assert not answer.closes


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), SIZES)
def test_a_chunked_answer_is_whole_with_its_last_chunk(chunks, sizes):
    parts = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    text = b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    answer, taken = fed(text, sizes)
    assert (answer.status, answer.body, taken) == (b"503", b"".join(chunks), len(text))


def test_an_answer_without_a_length_ends_with_its_connection():
    answer = Answer()
    assert not answer.feed(b"HTTP/1.0 200 OK\r\n\r\nhel")
    assert not answer.feed(b"lo")
    assert answer.ended()
    assert answer.body == b"hello"
    assert answer.closes


def test_half_an_answer_has_not_ended_when_its_connection_does():
    answer = Answer()
    assert not answer.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
    assert not answer.ended()


def test_a_server_that_will_close_says_so():
    answer = Answer()
    assert answer.feed(b"HTTP/1.1 200 \r\nConnection: Close\r\ncontent-length: 0\r\n\r\n")
    assert answer.closes


def test_an_announcement_before_the_answer_is_passed_over():
    answer = Answer()
    assert answer.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert answer.status == b"204"


@pytest.mark.parametrize(
    "text",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x15\x03\x01" + b"x" * 70_000],
    ids=["another protocol", "no end"],
)
def test_what_is_no_answer_is_told(text):
    with pytest.raises(Malformed):
        Answer().feed(text)


def test_a_chunk_whose_size_is_none_is_told():
    with pytest.raises(Malformed):
        Answer().feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
