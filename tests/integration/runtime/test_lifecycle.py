"""The end of a server, as its clients and its supervisor see it."""

from __future__ import annotations

import signal
import socket
import time
from typing import Any

import pytest


def test_sigterm_turns_readiness_off_while_requests_are_still_taken(start: Any, gated: Any) -> None:
    server = start(gated, shutdown_grace_s=30.0)
    assert server.fetch("/readyz")[0] == 200

    server.signal(signal.SIGTERM)
    server.until(lambda: server.fetch("/readyz")[0] == 503)

    assert server.send(5.1)[0] == 200  # on a new connection: the listener is still there
    assert server.fetch("/livez")[0] == 200
    assert server.fetch("/v2/models/iris/ready")[0] == 400
    server.signal(signal.SIGTERM)  # a second one: no more waiting
    assert server.wait() == 0


def test_after_the_grace_the_process_ends_with_0(start: Any, gated: Any) -> None:
    server = start(gated, shutdown_grace_s=0.2)
    began = time.monotonic()
    server.signal(signal.SIGTERM)

    assert server.wait() == 0
    assert time.monotonic() - began >= 0.2
    assert "Traceback" not in server.log.read_text()


def test_sigint_leaves_out_the_grace(start: Any, gated: Any) -> None:
    server = start(gated, shutdown_grace_s=600.0)
    server.signal(signal.SIGINT)

    assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_in_flight_is_answered_before_the_process_ends(
    start: Any, gated: Any, number: signal.Signals
) -> None:
    server = start(gated, shutdown_grace_s=0.0)
    sent = server.send_through_the_gate()
    server.signal(number)
    host, port = server.url.removeprefix("http://").split(":")
    server.until(lambda: not is_listening(host, int(port)))
    assert server.process.poll() is None

    server.open_the_gate()

    status, document = sent.result()
    assert status == 200, document
    assert server.wait() == 0


def test_a_second_signal_waits_for_nothing(start: Any, gated: Any) -> None:
    server = start(gated, shutdown_grace_s=600.0, shutdown_timeout_s=600.0)
    sent = server.send_through_the_gate()

    server.signal(signal.SIGTERM)
    server.until(lambda: server.fetch("/readyz")[0] == 503)
    server.signal(signal.SIGINT)

    assert server.wait() == 0  # and the gate was never opened
    assert_told_that_it_stops(sent)


def test_a_second_signal_after_the_listener_closed_waits_for_nothing(
    start: Any, gated: Any
) -> None:
    server = start(gated, shutdown_grace_s=0.0, shutdown_timeout_s=600.0)
    sent = server.send_through_the_gate()
    server.signal(signal.SIGTERM)
    host, port = server.url.removeprefix("http://").split(":")
    server.until(lambda: not is_listening(host, int(port)))

    server.signal(signal.SIGTERM)

    assert server.wait() == 0
    assert_told_that_it_stops(sent)


def test_work_that_does_not_end_is_given_up_after_the_timeout(start: Any, gated: Any) -> None:
    server = start(gated, shutdown_grace_s=0.0, shutdown_timeout_s=1.0)
    sent = server.send_through_the_gate()
    server.signal(signal.SIGTERM)

    assert server.wait() == 0
    assert_told_that_it_stops(sent)
    assert "shutdown_timeout_s" in server.log.read_text()


def test_an_idle_connection_does_not_keep_the_server_alive(start: Any, gated: Any) -> None:
    server = start(gated, shutdown_grace_s=0.0, shutdown_timeout_s=600.0)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def assert_told_that_it_stops(sent: Any) -> None:
    status, document = sent.result()
    assert status == 503
    assert document["error"] == "the server is shutting down"


def is_listening(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
