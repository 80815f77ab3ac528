"""A running server's admin API, as commands use it, over the standard library's HTTP client."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, Any

from mlserve_cli.errors import MlserveError
from mlserve_cli.package.package import Package
from mlserve_cli.runtime.manifest import EVIDENCE, MANIFEST, SERVE

PATIENCE_S = 600.0
"""Loading is answered when it is done: a large model measures, warms up and is proven first."""

_SEND_S = 10.0  # for all that is answered at once


class Client:
    """The admin API of the server at `url`. The constructor only stores and checks.

    key: of the scope `admin`; a server that listens on loopback without a keys file asks for none.
    ca: a file of certificates to trust, beside none of the system's.
    Raises `MlserveError` for a URL that is none.
    """

    def __init__(self, url: str, *, key: str | None = None, ca: Path | None = None) -> None:
        parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MlserveError(
                f"'{url}' is no server's URL.", hint="for example --url http://127.0.0.1:8000"
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._key = key
        self._ca = ca

    def status(self) -> dict[str, Any]:
        """The server and every model of it."""
        return self._send("GET", "/status")

    def audit(self, limit: int) -> list[dict[str, Any]]:
        """The last entries of its audit log, oldest first."""
        entries: list[dict[str, Any]] = self._send("GET", f"/audit?limit={limit}")["entries"]
        return entries

    def load(
        self, name: str, version: str, *, reload: bool = False, hold: bool = False
    ) -> dict[str, Any]:
        """Load a version; hold: who answers now goes on answering."""
        body = {"version": version, "reload": reload, "hold": hold}
        return self._model("POST", name, "load", body, patience_s=PATIENCE_S)

    def upload(
        self, package: Package, *, replace: bool = False, hold: bool = False
    ) -> dict[str, Any]:
        """Send a package, without its training sources, and have it loaded."""
        # Asked first: who is refused in the middle of a large body only sees a broken connection.
        if not self.status()["takes_packages"]:
            raise MlserveError(
                f"the server at {self.url} takes no packages over HTTP: it asks for no API keys, "
                "and a package may hold code.",
                hint="run 'mlserve deploy' where the server runs, or give the server a keys file",
            )
        manifest = package.manifest
        query = urllib.parse.urlencode({"replace": str(replace).lower(), "hold": str(hold).lower()})
        name = urllib.parse.quote(manifest.name, safe="")
        path = f"/packages/{name}/{urllib.parse.quote(manifest.version, safe='')}?{query}"
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                for part in (MANIFEST, SERVE, EVIDENCE):
                    if (package.path / part).exists():
                        archive.add(package.path / part, arcname=part)
            size = file.tell()
            file.seek(0)
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(size)}
            return self._exchange("PUT", path, file, headers, patience_s=PATIENCE_S)

    def unload(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Drain and free a version, or all."""
        return self._model("POST", name, "unload", {"version": version}, patience_s=PATIENCE_S)

    def canary(
        self, name: str, version: str, percent: float, *, sticky: str | None = None
    ) -> dict[str, Any]:
        """Send a share of the requests to a version."""
        body = {"version": version, "percent": percent, "sticky": sticky}
        return self._model("POST", name, "canary", body)

    def promote(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Send all requests to a version; without one, to the canary that runs."""
        return self._model("POST", name, "promote", {"version": version})

    def rollback(self, name: str) -> dict[str, Any]:
        """End the canary; where none runs, go back to the default of before."""
        return self._model("POST", name, "rollback", {}, patience_s=PATIENCE_S)

    def _model(
        self,
        method: str,
        name: str,
        operation: str,
        body: dict[str, Any],
        *,
        patience_s: float = _SEND_S,
    ) -> dict[str, Any]:
        path = f"/models/{urllib.parse.quote(name, safe='')}/{operation}"
        return self._send(method, path, body, patience_s=patience_s)

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        patience_s: float = _SEND_S,
    ) -> dict[str, Any]:
        """One request; its JSON answer. Raises `MlserveError` in the server's own words."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        return self._exchange(method, path, data, headers, patience_s=patience_s)

    def _exchange(
        self,
        method: str,
        path: str,
        data: bytes | IO[bytes] | None,
        headers: dict[str, str],
        *,
        patience_s: float,
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json", **headers}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(  # noqa: S310 - the constructor lets only http(s) through
            f"{self.url}/admin/v1{path}", data=data, headers=headers, method=method
        )
        try:
            with self._opener().open(request, timeout=patience_s) as reply:
                document = json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error.code, error.read()) from error
        except TimeoutError as error:
            raise self._late(patience_s) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error, patience_s) from error
        except ValueError as error:
            raise self._stranger() from error
        if not isinstance(document, dict):
            raise self._stranger()
        return document

    def _opener(self) -> urllib.request.OpenerDirector:
        # No proxy and no redirect: both would hand the key to somebody else.
        handlers: list[urllib.request.BaseHandler] = [
            urllib.request.ProxyHandler({}),
            _NoRedirect(),
        ]
        if self.url.startswith("https"):
            try:
                context = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
            except OSError as error:
                raise MlserveError(
                    f"'{self._ca}' is no file of certificates: {error.strerror or error}."
                ) from error
            handlers.append(urllib.request.HTTPSHandler(context=context))
        return urllib.request.build_opener(*handlers)

    def _refused(self, status: int, text: bytes) -> MlserveError:
        try:
            document = json.loads(text)
            sentence, hint = str(document["error"]), document.get("hint")
        except (ValueError, TypeError, KeyError, AttributeError):
            return self._stranger()
        if status == 401:
            hint = "give a key of the scope admin: --key, or MLSERVE_KEY"
        elif status == 404 and sentence == "Not Found":
            return self._stranger()
        return MlserveError(f"the server refused: {sentence.rstrip('.')}.", hint=hint)

    def _stranger(self) -> MlserveError:
        return MlserveError(
            f"what answers at {self.url} has no admin API of mlserve.",
            hint="give the server's own URL, as 'mlserve up' prints it",
        )

    def _late(self, patience_s: float) -> MlserveError:
        return MlserveError(
            f"the server at {self.url} has not answered within {patience_s:g} s.",
            hint="'mlserve status' shows whether it is still at it",
        )

    def _silent(self, error: OSError | http.client.HTTPException, patience_s: float) -> Exception:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return self._late(patience_s)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return MlserveError(
                f"the certificate of {self.url} is not trusted: {reason.verify_message}.",
                hint="--ca FILE names the certificates to trust",
            )
        if isinstance(reason, ConnectionRefusedError):
            detail = "nothing listens there"
        elif isinstance(reason, socket.gaierror):
            detail = "the host is not known"
        else:
            detail = str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
        if isinstance(reason, http.client.RemoteDisconnected) and self.url.startswith("http:"):
            return MlserveError(
                f"the server at {self.url} hung up without an answer.",
                hint=f"one that speaks TLS does: https{self.url.removeprefix('http')}",
            )
        if isinstance(reason, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(reason):
            return MlserveError(
                f"what answers at {self.url} speaks no TLS.",
                hint=f"http{self.url.removeprefix('https')}",
            )
        return MlserveError(
            f"no server can be reached at {self.url}: {detail}.",
            hint="start one with 'mlserve up', or name another with --url",
        )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Answers a redirect as the error that it is."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""
        return
