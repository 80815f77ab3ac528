"""The load over HTTP/1.1: one loop over sockets, which does as little as it can for a request.

It waits on epoll itself, and asks `select` how long, since that counts microseconds and epoll
milliseconds. Connections are kept alive, and each has one request at a time on it.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import time
from collections import deque

import numpy as np

from mlserve_cli.bench.load.address import listening
from mlserve_cli.bench.load.answer import Answer, Malformed
from mlserve_cli.bench.load.count import Count
from mlserve_cli.bench.load.job import Aim, Job, Tally
from mlserve_cli.bench.load.timers import precise_timers

_READ = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITE = select.EPOLLOUT | select.EPOLLERR
_BUFFER_BYTES = 1 << 16
_CHECK_NS = 50_000_000  # how often it is looked for requests that nobody answers
_BURST = 32  # requests to send before answers are read again
_RETRY_NS = 50_000_000  # before a user whose connection was refused comes again

_LENGTHS = (b"\r\ncontent-length: ", b"\r\nContent-Length: ")
_CLOSES = b"onnection: close"

_clock = time.perf_counter_ns


class _Connection:
    """A socket with the request that is on it. begun_ns: when it was to be sent, or was."""

    __slots__ = ("answer", "begun_ns", "busy", "message", "ready", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ready = False
        self.busy = False
        self.begun_ns = 0
        self.message = 0
        self.unsent: memoryview | None = None
        self.answer: Answer | None = None


class HttpLoad:
    """One run of one process. `run` returns when all is answered or given up."""

    def __init__(self, aim: Aim, job: Job, stop_fd: int) -> None:
        self._aim, self._job = aim, job
        self._count = Count(job)
        self._messages = aim.messages
        self._next_message = job.first
        self._poll = select.epoll()
        self._stop_fd = stop_fd
        self._connections: dict[int, _Connection] = {}
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[int] = deque()  # times of requests for which no connection is free
        self._times: list[int] | None = None
        if job.schedule_ns is not None:
            offsets = np.frombuffer(job.schedule_ns, np.int64) + job.begin_ns
            self._times = offsets.tolist()
        self._at = 0
        self._retries: list[int] = []
        self._check_ns = 0
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._length_name = _LENGTHS[0]
        self._busy = 0
        self._context: ssl.SSLContext | None = None
        if aim.tls:
            self._context = ssl.create_default_context(cafile=aim.ca)
        # By name here and not in the loop: it may be an IPv6 address.
        self._kind, self._address = listening(aim.host, aim.port)

    def run(self) -> Tally:
        """Send, count, and tell."""
        precise_timers()
        count = self._count
        if self._times is not None:
            starts, ends = np.searchsorted(self._times, [count.start_ns, count.end_ns])
            count.tally.planned = int(ends - starts)
        self._poll.register(self._stop_fd, select.EPOLLIN)
        for _ in range(self._job.connections):
            self._open()
        begun = False
        try:
            while True:
                now = _clock()
                count.turn(now)
                if not begun and now >= self._job.begin_ns:
                    begun = True
                    if self._times is None:
                        self._begin_users()
                if begun:
                    if self._times is not None:
                        self._dispatch(now)
                    elif self._retries:
                        self._retry(now)
                if now >= self._check_ns:
                    self._check(now)
                if begun and self._finished(now):
                    return count.finish(_clock())
                for fd, event in self._wait(now, begun):
                    self._handle(fd, event)
        finally:
            for connection in self._connections.values():
                connection.sock.close()
            self._poll.close()

    def _wait(self, now: int, begun: bool) -> list[tuple[int, int]]:
        if not begun:
            wait_ns = self._job.begin_ns - now
        elif self._times is not None and self._at < len(self._times):
            wait_ns = self._times[self._at] - now
        else:
            left_ns = self._count.end_ns - now
            return self._poll.poll(0.002 if left_ns <= 0 else min(left_ns, _CHECK_NS) / 1e9)
        if wait_ns <= 0:
            return self._poll.poll(0)
        ready, _, _ = select.select((self._poll,), (), (), min(wait_ns, _CHECK_NS) / 1e9)
        return self._poll.poll(0) if ready else []

    def _begin_users(self) -> None:
        for connection in list(self._connections.values()):
            if connection.ready and not connection.busy:
                self._send(connection, _clock())

    def _dispatch(self, now: int) -> None:
        """Send whatever's time has come, on a free connection or a new one."""
        times, count = self._times, self._count
        assert times is not None  # noqa: S101 - only open loops are dispatched
        stop = min(len(times), self._at + _BURST)
        while self._at < stop and times[self._at] <= now:
            at = times[self._at]
            self._at += 1
            if at >= count.end_ns or count.hopeless:
                self._give_up(now)
                return
            if count.counts(at):
                count.tally.sent += 1
                count.late(now - at)
            self._ask(at)
            now = _clock()

    def _give_up(self, now: int) -> None:
        self._at = len(self._times or ())
        if self._count.hopeless:
            self._count.tally.gave_up = True
            self._count.cut(now)

    def _ask(self, at: int) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.ready and not connection.busy:
                self._send(connection, at)
                return
        if len(self._connections) < self._job.most_connections:
            self._open()
            if self._idle:  # a local server may take it at once
                self._ask(at)
                return
        self._waiting.append(at)
        tally = self._count.tally
        tally.waiting_most = max(tally.waiting_most, len(self._waiting))

    def _open(self) -> None:
        sock = socket.socket(*self._kind)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failed = sock.connect_ex(self._address)
        if failed not in (0, errno.EINPROGRESS):
            sock.close()
            self._refused(failed)
            return
        if self._context is not None:
            sock = self._context.wrap_socket(
                sock, do_handshake_on_connect=False, server_hostname=self._aim.host
            )
        self._connections[sock.fileno()] = _Connection(sock)
        self._poll.register(sock.fileno(), _WRITE)

    def _handle(self, fd: int, event: int) -> None:
        connection = self._connections.get(fd)
        if connection is None:
            if fd == self._stop_fd:
                self._poll.unregister(fd)
                self._stop()
            return
        if not connection.ready:
            self._connect(connection)
        elif event & select.EPOLLOUT and connection.unsent is not None:
            self._send_rest(connection)
        else:
            self._receive(connection)

    def _connect(self, connection: _Connection) -> None:
        sock = connection.sock
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._drop(connection)
            self._refused(failed)
            return
        if isinstance(sock, ssl.SSLSocket):
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                self._poll.modify(sock.fileno(), _READ)
                return
            except ssl.SSLWantWriteError:
                self._poll.modify(sock.fileno(), _WRITE)
                return
            except OSError:
                self._drop(connection)
                self._refused(errno.EPROTO)
                return
        connection.ready = True
        self._count.tally.opened += 1
        self._poll.modify(sock.fileno(), _READ)
        self._free(connection)

    def _free(self, connection: _Connection) -> None:
        """Give a connection that is ready its next request, or let it wait for one."""
        if self._times is None:
            now = _clock()
            if self._job.begin_ns <= now < self._count.end_ns:
                self._send(connection, now)
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _send(self, connection: _Connection, begun_ns: int) -> None:
        number = self._next_message
        message = self._messages[number]
        self._next_message = (number + 1) % len(self._messages)
        connection.busy, connection.begun_ns, connection.message = True, begun_ns, number
        self._busy += 1
        if self._times is None and self._count.counts(begun_ns):
            self._count.tally.sent += 1
        try:
            sent = connection.sock.send(message)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError:
            self._lost(connection)
            return
        if sent < len(message):
            connection.unsent = memoryview(message)[sent:]
            self._poll.modify(connection.sock.fileno(), _READ | select.EPOLLOUT)

    def _send_rest(self, connection: _Connection) -> None:
        rest = connection.unsent
        if rest is None:
            return
        try:
            rest = rest[connection.sock.send(rest) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError:
            # Who refuses a large body may answer before it is read, and then hang up.
            self._receive(connection)
            return
        connection.unsent = rest if len(rest) else None
        if connection.unsent is None:
            self._poll.modify(connection.sock.fileno(), _READ)

    def _receive(self, connection: _Connection) -> None:
        while True:
            try:
                size = connection.sock.recv_into(self._view)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self._lost(connection)
                return
            now = _clock()
            if not size:
                self._ended(connection, now)
                return
            if not connection.busy:
                self._lost(connection)  # an answer to nothing
                return
            if connection.answer is not None or not self._whole(connection, size, now):
                self._piece(connection, size, now)
            if self._context is None or connection.sock.fileno() < 0:
                return  # else bytes may be left that TLS has read and epoll does not see

    def _whole(self, connection: _Connection, size: int, now: int) -> bool:
        """Whether it was an ordinary answer, all of it in one piece: nearly every one is."""
        data = self._buffer
        head = data.find(b"\r\n\r\n", 0, size)
        if head < 0 or data[7] != 49:  # HTTP/1.1
            return False
        name = self._length_name
        at = data.find(name, 0, head)
        if at < 0:
            for name in _LENGTHS:
                at = data.find(name, 0, head)
                if at >= 0:
                    self._length_name = name
                    break
            else:
                return False
        end = data.find(b"\r", at + 2, head + 1)
        try:
            length = int(data[at + len(name) : end])
        except ValueError:
            return False
        if size != head + 4 + length or data.find(_CLOSES, 0, head) >= 0:
            return False
        status = data[9:12]
        if status == b"200" and self._count.wants_sample:
            self._count.sample(connection.message, bytes(data[head + 4 : size]))
        self._done(connection, status, now)
        return True

    def _piece(self, connection: _Connection, size: int, now: int) -> None:
        if connection.answer is None:
            connection.answer = Answer()
        answer = connection.answer
        try:
            whole = answer.feed(self._view[:size])
        except Malformed:
            self._fail(connection, "no HTTP answer")
            return
        if whole:
            self._complete(connection, answer, now)

    def _complete(self, connection: _Connection, answer: Answer, now: int) -> None:
        if answer.status == b"200" and self._count.wants_sample:
            self._count.sample(connection.message, answer.body)
        connection.answer = None
        if answer.closes:
            connection.ready = False
            self._done(connection, answer.status, now)
            self._drop(connection)
            self._again()
        else:
            self._done(connection, answer.status, now)

    def _done(self, connection: _Connection, status: bytes | bytearray, now: int) -> None:
        """The request of a connection was answered."""
        count, begun_ns = self._count, connection.begun_ns
        connection.busy = False
        self._busy -= 1
        if status[0] == 50:  # 2xx
            if count.start_ns <= now < count.end_ns:
                count.tally.completed += 1
            if count.start_ns <= begun_ns < count.end_ns:
                count.answered(now - begun_ns, now)
        elif count.counts(begun_ns):
            count.refused(status.decode("latin-1"))
        if connection.unsent is not None:  # answered before it was heard out: of no use any more
            connection.ready = False
            self._drop(connection)
            self._again()
        elif connection.ready:
            self._free(connection)

    def _ended(self, connection: _Connection, now: int) -> None:
        answer = connection.answer
        if connection.busy and answer is not None and answer.ended():
            connection.ready = False
            self._complete(connection, answer, now)
        else:
            self._lost(connection)

    def _lost(self, connection: _Connection) -> None:
        """The connection is gone. One without a request ended as idle ones may."""
        self._fail(connection, "connection lost")

    def _fail(self, connection: _Connection, why: str, latency_ns: int | None = None) -> None:
        if connection.busy:
            connection.busy = False
            self._busy -= 1
            if self._count.counts(connection.begun_ns):
                self._count.failed(why, latency_ns)
        connection.ready = False
        self._drop(connection)
        self._again()

    def _drop(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if fd >= 0 and self._connections.pop(fd, None) is not None:
            self._poll.unregister(fd)
            connection.sock.close()

    def _again(self) -> None:
        """After a connection ended: a user opens another; an open loop where one is wanted."""
        if self._times is None:
            if _clock() < self._count.end_ns:
                self._open()
        elif self._waiting and len(self._connections) < self._job.most_connections:
            self._open()

    def _refused(self, number: int) -> None:
        """A connection could not be opened: whoever was to use it counts as failed."""
        why = {
            errno.ECONNREFUSED: "connection refused",
            errno.ETIMEDOUT: "connection timed out",
            errno.EPROTO: "no TLS connection",
        }.get(number, errno.errorcode.get(number, str(number)))
        count, now = self._count, _clock()
        if self._times is None:
            if now < count.end_ns:
                self._retries.append(now + _RETRY_NS)
            if count.counts(now):
                count.tally.sent += 1
                count.failed(why)
        elif self._waiting and count.counts(self._waiting.popleft()):
            count.failed(why)

    def _retry(self, now: int) -> None:
        due = [at for at in self._retries if at <= now]
        self._retries = [at for at in self._retries if at > now]
        for _ in due:
            if now < self._count.end_ns:
                self._open()

    def _check(self, now: int) -> None:
        """Give up on what nobody has answered in time."""
        self._check_ns = now + _CHECK_NS
        limit_ns = int(self._job.timeout_s * 1e9)
        for connection in list(self._connections.values()):
            if connection.busy and now - connection.begun_ns > limit_ns:
                self._fail(connection, "timeout", now - connection.begun_ns)
        while self._waiting and now - self._waiting[0] > limit_ns:
            begun_ns = self._waiting.popleft()
            if self._count.counts(begun_ns):
                self._count.failed("timeout", now - begun_ns)

    def _finished(self, now: int) -> bool:
        if self._busy or self._waiting:
            return False
        if self._times is not None:
            return self._at >= len(self._times) and (now >= self._count.end_ns)
        return now >= self._count.end_ns

    def _stop(self) -> None:
        """The other end of the pipe wants no more."""
        self._at = len(self._times or ())
        now = _clock()
        self._waiting.clear()
        for connection in list(self._connections.values()):
            if connection.busy:
                connection.busy = False
                self._busy -= 1
                connection.ready = False
                self._drop(connection)
        self._retries.clear()
        self._count.stop(now)
