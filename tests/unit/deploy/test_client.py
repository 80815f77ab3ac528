"""The client speaks in sentences, whatever answers, and gives its key to nobody else."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mlserve_cli.deploy.client import Client
from mlserve_cli.errors import MlserveError


@pytest.fixture
def answering():
    """A small real server with a script and a memory."""
    seen = []
    script = {"status": 200, "body": b"{}", "headers": {}}

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            length = int(self.headers.get("content-length", 0))
            seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
            self.send_response(script["status"])
            for name, value in script["headers"].items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(script["body"])))
            self.end_headers()
            self.wfile.write(script["body"])

        do_GET = do_POST = answer  # noqa: N815 - the base class calls them so

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"

    def answer(status=200, document=None, headers=None):
        body = document if isinstance(document, bytes) else json.dumps(document or {}).encode()
        script.update(status=status, body=body, headers=headers or {})
        return url

    yield answer, seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_operation_is_one_request_with_its_key(answering):
    answer, seen = answering
    url = answer(document={"name": "iris"})

    assert Client(url, key="secret").canary("a/b", "2", 10) == {"name": "iris"}

    method, path, headers, body = seen[0]
    assert (method, path) == ("POST", "/admin/v1/models/a%2Fb/canary")
    assert headers["Authorization"] == "Bearer secret"
    assert json.loads(body) == {"version": "2", "percent": 10, "sticky": None}


def test_the_servers_own_sentence_and_hint_are_passed_on(answering):
    answer, _ = answering
    url = answer(409, {"error": "there is nothing to go back to", "hint": "promote one"})

    with pytest.raises(MlserveError, match="refused: there is nothing to go back to") as raised:
        Client(url).rollback("iris")

    assert raised.value.hint == "promote one"


def test_a_missing_key_is_asked_for(answering):
    answer, _ = answering
    url = answer(401, {"error": "a key is needed"})

    with pytest.raises(MlserveError) as raised:
        Client(url).status()

    assert "MLSERVE_KEY" in raised.value.hint


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b"[]"), (404, {"error": "Not Found"}), (500, b"oops")],
)
def test_what_is_no_server_of_ours_is_called_a_stranger(answering, status, body):
    answer, _ = answering
    url = answer(status, body)

    with pytest.raises(MlserveError, match="has no admin API of mlserve"):
        Client(url).status()


def test_a_redirect_is_not_followed_with_the_key(answering):
    answer, seen = answering
    url = answer(302, headers={"Location": "http://127.0.0.1:9/elsewhere"})

    with pytest.raises(MlserveError):
        Client(url, key="secret").status()

    assert len(seen) == 1


def test_a_server_that_speaks_tls_is_told_by_its_silence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up():
            connection, _ = server.accept()
            connection.recv(1 << 16)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(MlserveError, match="hung up without an answer") as raised:
            Client(f"http://127.0.0.1:{port}").status()
        thread.join()

    assert f"https://127.0.0.1:{port}" in raised.value.hint


def test_a_server_without_tls_is_told_by_its_answer(answering):
    answer, _ = answering
    url = answer().replace("http:", "https:")

    with pytest.raises(MlserveError, match="speaks no TLS") as raised:
        Client(url).status()

    assert raised.value.hint == url.replace("https:", "http:")


def test_nothing_that_listens_is_told_with_its_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"

    with pytest.raises(MlserveError, match="nothing listens there"):
        Client(url).status()


@pytest.mark.parametrize("url", ["ftp://x", "http://", "file:///etc/passwd"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(MlserveError, match="is no server's URL"):
        Client(url)


def test_a_host_and_port_alone_are_taken_as_http():
    assert Client("127.0.0.1:8000/").url == "http://127.0.0.1:8000"


def test_a_file_of_certificates_that_is_none_is_told(tmp_path):
    with pytest.raises(MlserveError, match="is no file of certificates"):
        Client("https://127.0.0.1:9", ca=tmp_path / "none.pem").status()
