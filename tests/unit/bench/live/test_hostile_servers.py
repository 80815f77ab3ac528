"""What a server may do to the plain questions that come before a measurement."""

import dataclasses
import socket
import threading
import time

import pytest
from typer.testing import CliRunner

from mlserve_cli.bench.live import place as places
from mlserve_cli.cli.main import app
from mlserve_cli.errors import MlserveError


@pytest.fixture
def server():
    """Starts a server that reads a request and hands its connection to a function; its Place."""
    listening = []

    def start(answer):
        listener = socket.create_server(("127.0.0.1", 0))
        listening.append(listener)

        def run():
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    answer(connection)
            except OSError:
                pass  # the client has had enough

        threading.Thread(target=run, daemon=True).start()
        return places.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")

    yield start
    for listener in listening:
        listener.close()


def drip(head):
    def answer(connection):
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    return answer


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\n", b"HTTP/1.1 200 OK\r\nname: "]
)
def test_an_answer_that_drips_is_given_up_although_each_byte_is_in_time(server, head):
    place = dataclasses.replace(server(drip(head)), patience_s=0.3)
    with pytest.raises(MlserveError, match=r"not answered within 0\.3 s"):
        places.ask(place, "GET", "/")


def test_an_answer_without_end_is_not_gathered_in_memory(server, monkeypatch):
    monkeypatch.setattr(places, "_MOST_BYTES", 1 << 20)

    def answer(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 900000000000\r\n\r\n")
        while True:
            connection.sendall(bytes(65536))

    with pytest.raises(MlserveError, match="longer than 1 MiB"):
        places.ask(server(answer), "GET", "/v2")


def test_an_answer_of_just_the_most_bytes_is_whole(server, monkeypatch):
    monkeypatch.setattr(places, "_MOST_BYTES", 4)

    def answer(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour")

    assert places.ask(server(answer), "GET", "/v2").body == b"four"


def test_what_a_stranger_sends_reaches_the_terminal_without_control_characters(server):
    place = server(lambda connection: connection.sendall(b"\x1b[2J\0 nonsense\r\n\r\n"))
    with pytest.raises(MlserveError, match="nonsense") as caught:
        places.ask(place, "GET", "/")
    assert caught.value.message.isprintable()
    assert places.Reply(500, {}, b'{"error": "\\u001b[2Jno"}').words == "[2Jno"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_never_answers_is_given_up_after_the_timeout(scheme):
    if scheme == "grpc":
        pytest.importorskip("grpc")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, and nobody answers
        url = f"{scheme}://ann:secret@127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        done = CliRunner().invoke(app, ["bench", url, "--timeout", "0.2"], standalone_mode=False)
        assert 0.9 < time.monotonic() - begun < 15  # not the thirty seconds of a patient one
    assert isinstance(done.exception, MlserveError)
    assert "no server can be reached at" in done.exception.message
    assert "secret" not in done.exception.message + done.output
