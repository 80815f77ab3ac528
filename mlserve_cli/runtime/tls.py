"""TLS: one certificate for every port, taken anew when it is renewed and the server is told so."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import SettingsError
from .monitoring import logs

if TYPE_CHECKING:
    from .settings import Settings

log = logging.getLogger(f"{logs.NAME}.tls")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its chain, and its private key, as PEM; what gRPC takes."""

    cert: bytes
    key: bytes


class Tls:
    """The server's certificate. The constructor only stores; `load` reads the files."""

    def __init__(self, settings: Settings, root: Path) -> None:
        self._settings = settings
        self._root = root
        self._context: ssl.SSLContext | None = None

    @property
    def enabled(self) -> bool:
        """Whether there is one."""
        return bool(self._settings.tls_cert or self._settings.tls_key)

    def load(self) -> ssl.SSLContext:
        """Read the files → what connections are wrapped with; the same one each time.

        Connections that begin later use what was read last. Raises `SettingsError`, and then what
        was read before stays.
        """
        cert, key = self._files()
        trial = _new()  # a pair that does not fit must not half replace one that does
        _fill(trial, cert, key)
        _check_dates(trial, cert)
        if self._context is None:
            self._context = _new()
        _fill(self._context, cert, key)
        return self._context

    def reload(self, settings: Settings) -> None:
        """Read the files that `settings` names; where that cannot be, those before stay."""
        before, self._settings = self._settings, settings
        try:
            self.load()
        except SettingsError as error:
            self._settings = before
            log.error("%s The certificate that was known stays.", error.message)
        else:
            log.info("the certificate was read again")

    def pair(self) -> Pair | None:
        """What the files hold, checked; None without TLS. Raises `SettingsError`."""
        if not self.enabled:
            return None
        self.load()
        cert, key = self._files()
        return Pair(cert.read_bytes(), key.read_bytes())

    def _files(self) -> tuple[Path, Path]:
        settings = self._settings
        for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
            if not getattr(settings, name):
                raise SettingsError(
                    f"{other} is '{getattr(settings, other)}' and {name} is not set.",
                    hint="TLS needs both: the certificate and its private key",
                )
        return self._root / settings.tls_cert, self._root / settings.tls_key


def _new() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _fill(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise SettingsError(f"{name} '{path}' cannot be read: {error.strerror}.") from error

    def no_terminal() -> NoReturn:
        raise SettingsError(
            f"tls_key '{key}' is locked with a pass phrase.",
            hint=f"openssl pkey -in {key} -out unlocked.pem",
        )

    try:
        context.load_cert_chain(cert, key, password=no_terminal)
    except ssl.SSLError as error:
        raise SettingsError(
            f"tls_cert '{cert}' and tls_key '{key}' are no certificate and its key: "
            f"{error.reason or error}.",
            hint="both are PEM; the certificate comes first in its file, then its chain",
        ) from error


_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl` has no name for


def _check_dates(context: ssl.SSLContext, cert: Path) -> None:
    """Raise `SettingsError` where no client would take the certificate today."""
    found = _seen_by_a_client(context, cert)
    now = time.time()
    if "notAfter" in found and ssl.cert_time_to_seconds(found["notAfter"]) < now:
        raise SettingsError(
            f"tls_cert '{cert}' has expired: it was valid until {found['notAfter']}.",
            hint="renew it; a running server takes the new one at SIGHUP",
        )
    if "notBefore" in found and ssl.cert_time_to_seconds(found["notBefore"]) > now:
        raise SettingsError(
            f"tls_cert '{cert}' is not valid before {found['notBefore']}.",
            hint="look at this machine's clock: date -u",
        )


def _seen_by_a_client(context: ssl.SSLContext, cert: Path) -> dict[str, Any]:
    """The certificate as `SSLSocket.getpeercert` has it; empty where the handshake fails.

    Python reads a certificate for us only once a client trusts it, so one does, in memory.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        trusting.load_verify_locations(cert)
        client = trusting.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server, client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLError:  # for a reason of its own, which clients will be told
        return {}
    return client.getpeercert() or {}
