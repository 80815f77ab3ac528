"""Keys at a real server, on the short way of a request and on the long one."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from mlserve_cli.runtime import keys

BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}
).encode()


def ask(url: str, body: bytes | None, **headers: str) -> int:
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture
def guarded(start: Any, gated: Path, tmp_path: Path) -> tuple[Any, str]:
    made, text = keys.make("web", ["infer"])
    keys.write(tmp_path / "keys.json", [made])
    return start(gated, keys=str(tmp_path / "keys.json"), shutdown_grace_s=0.0), text


def test_both_ways_ask_for_a_key_and_probes_do_not(guarded: tuple[Any, str]) -> None:
    server, text = guarded
    infer = f"{server.url}/v2/models/iris/infer"
    for url, body in ((infer, BODY), (infer + "?a=b", BODY), (server.url + "/metrics", None)):
        assert ask(url, body) == 401
        assert ask(url, body, authorization="Bearer mls_wrong") == 401
        assert ask(url, body, authorization=f"Bearer {text}") == 200
    assert ask(infer, BODY, **{"x-api-key": text}) == 200
    assert ask(f"{server.url}/admin/v1/status", None, authorization=f"Bearer {text}") == 403
    for probe in ("/livez", "/readyz", "/v2/health/ready"):
        assert ask(server.url + probe, None) == 200


def test_a_hang_up_reads_the_keys_again(guarded: tuple[Any, str], tmp_path: Path) -> None:
    server, _ = guarded
    made, text = keys.make("new", ["infer"])
    keys.write(tmp_path / "keys.json", [made])
    server.signal(signal.SIGHUP)
    infer = f"{server.url}/v2/models/iris/infer"
    server.until(lambda: ask(infer, BODY, authorization=f"Bearer {text}") == 200)
    # The keys are the first that is read again, and the line is written when all is done.
    server.until(lambda: "the configuration was read again" in server.log.read_text())


def test_a_server_does_not_listen_to_the_network_without_a_key(start: Any, gated: Path) -> None:
    server = start(gated, host="0.0.0.0")
    assert server.wait() == 3
    assert "no API key is asked for" in server.log.read_text()
