"""An HTTP/1.1 answer as far as a load needs it: its status, and where it ends (RFC 9112)."""

from __future__ import annotations

import re

_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)\s*(?=\r\n|$)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*\bchunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b", re.IGNORECASE)


class Malformed(Exception):
    """What came is no HTTP answer."""


class Answer:
    """One answer that comes in pieces. `feed` says when it is whole."""

    __slots__ = ("_body_at", "_data", "_end", "_next", "closes", "status")

    def __init__(self) -> None:
        self._data = bytearray()
        self._body_at = 0  # 0: the head is not whole
        self._end = 0  # of a body whose length is known; −1: chunked; −2: until the connection ends
        self._next = 0  # where the next chunk's size stands
        self.status = b""
        self.closes = False

    def feed(self, data: bytes | memoryview) -> bool:
        """Take a piece; True once the answer is whole. Raises `Malformed`."""
        self._data += data
        if not self._body_at and not self._head():
            return False
        if self._end == -1:
            return self._chunks()
        return self._end >= 0 and len(self._data) >= self._end

    def ended(self) -> bool:
        """Whether it is whole now that the connection has ended."""
        return bool(self._body_at) and self._end == -2

    @property
    def body(self) -> bytes:
        """Its body, without the frames of chunks."""
        if self._end != -1:
            return bytes(self._data[self._body_at :])
        parts: list[bytes] = []
        at = self._body_at
        while True:
            size, line_end = self._size(at)
            if not size:
                return b"".join(parts)
            parts.append(bytes(self._data[line_end : line_end + size]))
            at = line_end + size + 2

    def _head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            if len(self._data) > 1 << 16:
                raise Malformed
            return False
        head = bytes(self._data[:end])
        found = _STATUS.match(head)
        if found is None:
            raise Malformed
        if found[2][:1] == b"1":  # 100 Continue and its like announce the real one
            del self._data[: end + 4]
            return self._head()
        self.status, self._body_at = found[2], end + 4
        self.closes = found[1] == b"0" or _CLOSE.search(head) is not None
        length = _LENGTH.search(head)
        if _CHUNKED.search(head):
            self._end, self._next = -1, self._body_at
        elif length is not None:
            self._end = self._body_at + int(length[1])
        elif self.status in (b"204", b"304"):
            self._end = self._body_at
        else:
            self._end, self.closes = -2, True
        return True

    def _size(self, at: int) -> tuple[int, int]:
        """The size of the chunk at `at`, −1 where it is not here, and where its bytes begin."""
        end = self._data.find(b"\r\n", at)
        if end < 0:
            return -1, at
        try:
            return int(bytes(self._data[at:end]).partition(b";")[0], 16), end + 2
        except ValueError:
            raise Malformed from None

    def _chunks(self) -> bool:
        while True:
            size, begins = self._size(self._next)
            if size < 0 or len(self._data) < begins + size + 2:
                return False
            if size == 0:
                # Trailers may follow; an empty line ends them.
                end = self._data.find(b"\r\n\r\n", begins - 2)
                return end >= 0
            self._next = begins + size + 2
