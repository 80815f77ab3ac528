"""A URL, and the few plain questions that a server is asked before it is measured."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from mlserve_cli.errors import MlserveError, without_secrets

SCHEMES = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 443}
"""Scheme → the port where none is given."""

PATIENCE_S = 30.0
"""For the whole answer to a plain question, however slowly its bytes come."""

LEAST_PATIENCE_S = 1.0
"""A limit of milliseconds is meant for a model's answers; of itself a server may tell slower."""

_MOST_BYTES = 64 << 20
"""Of an answer; what tells what a server serves is far smaller."""


def is_url(text: str) -> bool:
    """Whether an argument names a server and not a package."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server is, and what it has to be told with each request.

    url: without user and password. path: what stands behind the host in it, without a slash at its
    end. key: an API key. login: user and password, as basic authentication has them. ca: a file of
    certificates to trust. patience_s: for an answer to a plain question.
    """

    url: str
    host: str
    port: int
    path: str = ""
    grpc: bool = False
    tls: bool = False
    key: str | None = field(default=None, repr=False)
    login: str | None = field(default=None, repr=False)
    ca: str | None = None
    patience_s: float = PATIENCE_S

    @property
    def headers(self) -> dict[str, str]:
        """Of each request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        headers = {"Host": f"{host}:{self.port}"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        elif self.login:
            headers["Authorization"] = f"Basic {self.login}"
        return headers

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, so that the server and the generator share its cores."""
        for *_, address in _addresses(self.host, self.port):
            if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
                return True
            family = socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((str(address[0]), 0))  # only one's own addresses can be bound
                except OSError:
                    continue
                return True
        return False


def parse(
    url: str, *, key: str | None = None, ca: str | None = None, patience_s: float = PATIENCE_S
) -> Place:
    """The place that a URL names. Raises `MlserveError` where it names none."""
    example = "for example http://127.0.0.1:8000 or grpc://127.0.0.1:8001"
    # Of a URL that cannot be taken apart nobody knows where a password in it ends.
    head, _, rest = url.partition("://")
    shown = f"{head}://…@{rest.rpartition('@')[2]}" if "@" in rest else url
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
    except ValueError as error:
        why = f": {error}" if shown == url else ""
        raise MlserveError(f"'{shown}' is no server's URL{why}.", hint=example) from None
    if scheme not in SCHEMES or not parts.hostname:
        raise MlserveError(f"'{shown}' is no server's URL.", hint=example)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise MlserveError(
            "the API key holds what no header can: a line's end, or no ASCII.",
            hint="--key, or MLSERVE_KEY, with the key alone",
        )
    place = Place(
        url=without_secrets(url),
        host=parts.hostname,
        port=port or SCHEMES[scheme],
        path=parts.path.rstrip("/"),
        grpc=scheme.startswith("grpc"),
        tls=scheme in ("https", "grpcs"),
        key=key,
        login=_login(parts.username, parts.password),
        ca=ca,
        patience_s=max(patience_s, LEAST_PATIENCE_S),
    )
    if not _addresses(place.host, place.port):
        raise unreachable(place, "the host is not known")
    return place


def _login(user: str | None, password: str | None) -> str | None:
    """The credentials of RFC 7617."""
    if user is None:
        return None
    return b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


def _addresses(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return []


def unreachable(place: Place, why: str) -> MlserveError:
    """The error for a server that does not answer at all."""
    return MlserveError(
        f"no server can be reached at {place.url}: {why}.",
        hint="start one with 'mlserve up PKG', and give the URL that it prints",
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered to a plain question."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The JSON of the body; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, UnicodeDecodeError, RecursionError):
            return None

    @property
    def words(self) -> str:
        """What the server says of an error, in short."""
        document = self.json()
        if isinstance(document, dict):
            for key in ("error", "message", "detail"):
                if isinstance(document.get(key), str):
                    return _printable(str(document[key])).rstrip(".")
        text = self.body[:200].decode("utf-8", "replace")
        return _printable(text).rstrip(".") or "nothing more"


def ask(
    place: Place,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request on a connection of its own. Raises `MlserveError` where nothing answers."""
    connection: http.client.HTTPConnection
    if place.tls:
        try:
            context = ssl.create_default_context(cafile=place.ca)
        except OSError as error:
            raise MlserveError(
                f"'{place.ca}' is no file of certificates: {error.strerror or error}."
            ) from error
        connection = http.client.HTTPSConnection(
            place.host, place.port, timeout=place.patience_s, context=context
        )
    else:
        connection = http.client.HTTPConnection(place.host, place.port, timeout=place.patience_s)
    try:
        connection.connect()
        with _deadline(connection.sock, place.patience_s):
            connection.request(method, path, body, {**place.headers, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            content = answer.read(_MOST_BYTES)
        if not answer.isclosed() and answer.read(1):
            raise unreachable(place, f"its answer to {path} is longer than {_MOST_BYTES >> 20} MiB")
        return Reply(answer.status, found, content)
    except ssl.SSLCertVerificationError as error:
        raise MlserveError(
            f"the certificate of {place.url} is not trusted: {error.verify_message}.",
            hint="--ca FILE names the certificates to trust",
        ) from error
    except ssl.SSLError as error:
        raise MlserveError(f"what answers at {place.url} speaks no TLS.", hint="http://") from error
    except TimeoutError as error:
        raise unreachable(place, f"it has not answered within {place.patience_s:g} s") from error
    except ConnectionRefusedError as error:
        raise unreachable(place, "nothing listens there") from error
    except (OSError, http.client.HTTPException) as error:
        why = str(getattr(error, "strerror", None) or error or type(error).__name__)
        raise unreachable(place, _printable(why).rstrip(".")) from error
    finally:
        connection.close()


@contextmanager
def _deadline(connected: socket.socket, patience_s: float) -> Iterator[None]:
    """Cut the connection after the patience: a socket's own timeout begins anew at each byte."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        # Not the method of a TLS socket, which takes its state from under the one who reads.
        with suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(patience_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError


def _printable(text: str) -> str:
    """What a stranger sent, for the terminal: one short line without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
