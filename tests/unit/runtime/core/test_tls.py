"""TLS: a pair of files, read again while connections go on, over real sockets."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from mlserve_cli.runtime.errors import SettingsError
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.tls import Tls

SETTINGS = Settings(tls_cert="cert.pem", tls_key="key.pem")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")


def certify(folder: Path, name: str = "localhost", *, phrase: str = "") -> bytes:
    """Write cert.pem and key.pem; the certificate as a client sees it."""
    lock = ["-passout", f"pass:{phrase}"] if phrase else ["-noenc"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2",
         "-subj", f"/CN={name}", *lock],
        check=True, capture_output=True,
    )  # fmt: skip
    return ssl.PEM_cert_to_DER_cert((folder / "cert.pem").read_text())


def seen(context: ssl.SSLContext) -> bytes:
    """The certificate that a client of one connection gets to see."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with context.wrap_socket(ours, server_side=True):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    with trusting.wrap_socket(theirs) as connection:
        found = connection.getpeercert(binary_form=True)
    thread.join()
    assert found is not None
    return found


@needs_openssl
def test_a_renewed_certificate_is_what_new_connections_see(tmp_path: Path) -> None:
    first = certify(tmp_path)
    tls = Tls(SETTINGS, tmp_path)
    context = tls.load()
    assert seen(context) == first
    second = certify(tmp_path)
    tls.reload(SETTINGS)
    assert seen(context) == second != first


@needs_openssl
def test_half_of_a_renewal_changes_nothing(tmp_path: Path) -> None:
    first = certify(tmp_path)
    tls = Tls(SETTINGS, tmp_path)
    context = tls.load()
    key = (tmp_path / "key.pem").read_bytes()
    certify(tmp_path)
    (tmp_path / "key.pem").write_bytes(key)
    tls.reload(SETTINGS)
    assert seen(context) == first
    with pytest.raises(SettingsError, match="no certificate and its key"):
        tls.pair()


@needs_openssl
def test_a_locked_key_is_a_sentence_and_no_question(tmp_path: Path) -> None:
    certify(tmp_path, phrase="secret")
    with pytest.raises(SettingsError, match="locked with a pass phrase"):
        Tls(SETTINGS, tmp_path).load()


@needs_openssl
@pytest.mark.parametrize(
    ("days", "said"),
    [(-30, "is not valid before"), (3, "has expired: it was valid until"), (1, "")],
)
def test_a_certificate_of_another_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, said: str
) -> None:
    certify(tmp_path)  # for two days
    then = time.time() + days * 86400
    monkeypatch.setattr("mlserve_cli.runtime.tls.time.time", lambda: then)
    if said:
        with pytest.raises(SettingsError, match=said):
            Tls(SETTINGS, tmp_path).load()
    else:
        Tls(SETTINGS, tmp_path).load()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(tls_cert="cert.pem"), "tls_key is not set"),
        (Settings(tls_key="key.pem"), "tls_cert is not set"),
        (SETTINGS, "cert.pem' cannot be read"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, settings: Settings, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Tls(settings, tmp_path).load()


def test_without_files_there_is_no_tls(tmp_path: Path) -> None:
    tls = Tls(Settings(), tmp_path)
    assert not tls.enabled
    assert tls.pair() is None
