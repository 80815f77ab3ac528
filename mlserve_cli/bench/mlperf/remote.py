"""A live server as LoadGen's system under test: requests over HTTP or gRPC, answers read whole."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlserve_cli.bench.load.answer import Answer, Malformed
from mlserve_cli.bench.load.job import Aim
from mlserve_cli.bench.mlperf.system import Answers, Sample
from mlserve_cli.bench.mlperf.task import Remote
from mlserve_cli.errors import MlserveError

MOST_CONNECTIONS = 256
_TIMEOUT_S = 30.0
_CHECK_S = 0.25
_PIECE_BYTES = 1 << 18


class _Connection:
    __slots__ = ("answer", "begun", "sample", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sample: Sample | None = None
        self.answer = Answer()
        self.begun = 0.0


class HttpSystem:
    """One thread with all connections. A free one is used, else one is opened, up to `most`."""

    def __init__(self, target: Remote, *, whole: bool) -> None:
        self._aim = target.aim
        self._most = target.connections
        self.count = len(target.aim.messages)
        self.answers = Answers(whole=whole)
        self._context = ssl.create_default_context(cafile=self._aim.ca) if self._aim.tls else None
        self._waiting: deque[Sample] = deque()
        self._selector = selectors.DefaultSelector()
        self._awake, self._wake = socket.socketpair()
        self._awake.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ, None)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="requests", daemon=True)
        self._thread.start()

    def issue(self, samples: Sequence[Sample]) -> None:
        """Hand samples to the thread."""
        self._waiting.extend(samples)
        self._wake.send(b"\0")

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self._wake.send(b"\0")
        self._thread.join()
        for connection in self._all:
            connection.sock.close()
        self._selector.close()
        self._awake.close()
        self._wake.close()

    def _work(self) -> None:
        checked = time.monotonic()
        while not self._closed:
            for key, _ in self._selector.select(_CHECK_S):
                if key.data is None:
                    self._drain()
                else:
                    self._read(key.data)
            while self._waiting and self._send(self._waiting[0]):
                self._waiting.popleft()
            now = time.monotonic()
            if now - checked > _CHECK_S:
                checked = now
                for connection in list(self._all):
                    if connection.sample is not None and now - connection.begun > _TIMEOUT_S:
                        self._drop(connection, f"no answer within {_TIMEOUT_S:g} s")

    def _drain(self) -> None:
        try:
            while self._awake.recv(4096):
                pass
        except BlockingIOError:
            return

    def _send(self, sample: Sample) -> bool:
        """Whether it is on its way, or has failed; False while every connection is busy."""
        if not self._idle:
            if len(self._all) >= self._most:
                return False
            try:
                self._open()
            except OSError as error:
                self.answers.fail([sample.identity], f"no connection: {error.strerror or error}")
                return True
        connection = self._idle.pop()
        connection.sample, connection.begun = sample, time.monotonic()
        connection.answer = Answer()
        try:
            connection.sock.sendall(self._aim.messages[sample.index])
        except OSError as error:
            self._drop(connection, f"the connection broke: {error.strerror or error}")
        return True

    def _open(self) -> None:
        sock: socket.socket = socket.create_connection(
            (self._aim.host, self._aim.port), timeout=_TIMEOUT_S
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            sock = self._context.wrap_socket(sock, server_hostname=self._aim.host)
        connection = _Connection(sock)
        self._selector.register(sock, selectors.EVENT_READ, connection)
        self._all.add(connection)
        self._idle.append(connection)

    def _read(self, connection: _Connection) -> None:
        try:
            piece = connection.sock.recv(_PIECE_BYTES)
            while isinstance(connection.sock, ssl.SSLSocket) and connection.sock.pending():
                piece += connection.sock.recv(_PIECE_BYTES)
            if connection.sample is None:
                self._drop(connection, "")  # a server that closes what is idle
                return
            whole = connection.answer.feed(piece) if piece else connection.answer.ended()
        except (OSError, Malformed) as error:
            self._drop(connection, f"the connection broke: {error}")
            return
        if whole:
            self._finish(connection)
        elif not piece:
            self._drop(connection, "the server closed the connection")

    def _finish(self, connection: _Connection) -> None:
        sample, answer = connection.sample, connection.answer
        connection.sample = None
        if answer.closes:
            self._forget(connection)
        else:
            self._idle.append(connection)
        if sample is None:
            return
        if not answer.status.startswith(b"2"):
            self.answers.fail([sample.identity], f"status {answer.status.decode()}")
            return
        self.answers.give([sample.identity], [answer.body] if self.answers.whole else None)

    def _drop(self, connection: _Connection, why: str) -> None:
        sample, connection.sample = connection.sample, None
        self._forget(connection)
        if sample is not None:
            self.answers.fail([sample.identity], why)

    def _forget(self, connection: _Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


class GrpcSystem:
    """One channel, whose streams are as many as there are samples on their way."""

    def __init__(self, target: Remote, *, whole: bool) -> None:
        self._aim = target.aim
        self.count = len(target.aim.messages)
        self.answers = Answers(whole=whole)
        self._channel = _channel(target.aim)
        self._call = self._channel.unary_unary(target.aim.method)

    def issue(self, samples: Sequence[Sample]) -> None:
        """Call; the answers come on gRPC's own thread."""
        for sample in samples:
            future = self._call.future(
                self._aim.messages[sample.index],
                timeout=_TIMEOUT_S,
                metadata=self._aim.metadata or None,
            )
            future.add_done_callback(lambda done, sample=sample: self._finish(sample, done))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _finish(self, sample: Sample, done: Any) -> None:
        error = done.exception()
        if error is not None:
            self.answers.fail([sample.identity], error.code().name)
            return
        self.answers.give([sample.identity], [done.result()] if self.answers.whole else None)


def _channel(aim: Aim) -> Any:
    import grpc

    address = f"[{aim.host}]:{aim.port}" if ":" in aim.host else f"{aim.host}:{aim.port}"
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if not aim.tls:
        return grpc.insecure_channel(address, options)
    try:
        trusted = Path(aim.ca).read_bytes() if aim.ca else None
    except OSError as error:
        raise MlserveError(f"'{aim.ca}' cannot be read: {error.strerror}.") from error
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted), options)
