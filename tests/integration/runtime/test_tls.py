"""TLS and signals at a real server."""

import shutil
import signal
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")


def certify(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2", "-noenc",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip


def ready(url: str, trusted: Path) -> int:
    """Ask a server whose certificate has to be `trusted`."""
    context = ssl.create_default_context(cafile=trusted)
    with urllib.request.urlopen(f"{url}/readyz", timeout=30, context=context) as reply:
        return int(reply.status)


def test_a_certificate_is_renewed_at_a_hang_up_while_the_server_goes_on(
    start: Any, gated: Path, tmp_path: Path
) -> None:
    certify(tmp_path)
    server = start(
        gated,
        tls_cert=str(tmp_path / "cert.pem"),
        tls_key=str(tmp_path / "key.pem"),
        shutdown_grace_s=0.0,
    )
    old = tmp_path / "old.pem"
    shutil.copy(tmp_path / "cert.pem", old)
    assert server.url.startswith("https://")
    assert ready(server.url, old) == 200

    certify(tmp_path)
    server.signal(signal.SIGHUP)
    server.until(lambda: "the configuration was read again" in server.log.read_text())
    assert ready(server.url, tmp_path / "cert.pem") == 200
    with pytest.raises(OSError, match="certificate verify failed"):
        ready(server.url, old)

    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_a_certificate_without_its_key_is_a_sentence_before_anything_is_loaded(
    start: Any, gated: Path, tmp_path: Path
) -> None:
    server = start(gated, tls_cert=str(tmp_path / "cert.pem"))
    assert server.wait() == 3
    log = server.log.read_text()
    assert "tls_key is not set" in log
    assert "Traceback" not in log
