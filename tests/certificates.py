"""Certificates for tests: an authority of our own, and what it signs for this machine."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates")

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


@dataclass(frozen=True)
class Authority:
    """Signs certificates; clients that trust `path` take them."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "authority.pem"

    @staticmethod
    def make(folder: Path) -> "Authority":
        folder.mkdir(parents=True, exist_ok=True)
        made = Authority(folder)
        _openssl(
            "req", "-x509", *_EC, "-keyout", folder / "authority.key", "-out", made.path,
            "-days", "2", "-subj", "/CN=authority of a test",
            "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip
        return made

    def certify(self, target: Path, *, days: int = 2) -> bytes:
        """Write cert.pem and key.pem for localhost into `target` → the certificate, as PEM.

        days: how long it is valid; −1 makes one that has expired.
        """
        target.mkdir(parents=True, exist_ok=True)
        request, extensions = target / "request.pem", target / "extensions"
        key, cert = target / "new-key.pem", target / "new-cert.pem"
        _openssl("req", *_EC, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
        extensions.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
        )
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.path, "-CAkey",
            self.folder / "authority.key", "-CAcreateserial", "-days", str(days),
            "-extfile", extensions, "-out", cert,
        )  # fmt: skip
        key.replace(target / "key.pem")
        cert.replace(target / "cert.pem")
        return (target / "cert.pem").read_bytes()


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
