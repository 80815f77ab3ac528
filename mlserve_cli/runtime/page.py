"""What a person opens in a browser: the page, the OpenAPI document, an example of each request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from . import example, openapi
from .errors import NotFound, PackageError
from .example import Example
from .processing import schema
from .protocols.health import describe

if TYPE_CHECKING:
    from .registry import LoadedModel
    from .server import Server

_FILE = Path(__file__).with_name("page.html")
_VERSION = Path(__file__).with_name("VERSION")
_PLACE = "__MODELS__"
_SHOWN_BYTES = 8 << 10  # a longer example is fetched when it is asked for


class Pages:
    """Starlette endpoints for people."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._html = _FILE.read_text(encoding="utf-8")
        self._policy = content_security_policy(self._html)
        self._version = _VERSION.read_text(encoding="utf-8").strip()
        self._examples: dict[str, Example | None] = {}

    async def page(self, request: Request) -> Response:
        """`GET /`: every model with its signature, a curl line and a form to try it.

        Who does not ask for HTML is told that the server is alive, as in KServe's version 1.
        """
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"status": "alive"}, headers={"vary": "accept"})
        base = str(request.base_url).rstrip("/")
        facts = {
            "base": base,
            "version": self._version,
            "models": [self._facts(model, base) for model in self._server.registry.models()],
        }
        # "<" cannot end the script element from inside a JSON string when it is escaped.
        text = json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c")
        return HTMLResponse(
            self._html.replace(_PLACE, text),
            headers={
                "content-security-policy": self._policy,
                "x-content-type-options": "nosniff",
                "referrer-policy": "no-referrer",
                "cache-control": "no-store",
                "vary": "accept",
            },
        )

    async def openapi(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        models = [
            (model.manifest, self._example(model))
            for model in self._server.registry.models()
            if self._is_default(model)
        ]
        feedback = self._server.memory is not None
        return JSONResponse(openapi.document(models, version=self._version, feedback=feedback))

    async def example(self, request: Request) -> Response:
        """`GET /examples/{model}[/{version}]`: a body that this model takes."""
        path = request.path_params
        model = self._server.registry.get(path["model"], path.get("version"))
        found = self._example(model)
        if found is None:
            raise NotFound(f"there is no example for model '{model.manifest.name}'")
        return Response(found.body, media_type=found.content_type)

    def _facts(self, model: LoadedModel, base: str) -> dict[str, Any]:
        manifest = model.manifest
        found = self._example(model)
        version = None if self._is_default(model) else manifest.version
        path = f"{manifest.name}/{version}" if version else manifest.name
        line = None
        if found is not None:
            line = example.curl_line(
                model,
                base,
                processor=model.processor,
                version=version,
                key=bool(self._server.settings.keys),
            )
        return {
            **describe(manifest, [manifest.version]),
            "version": manifest.version,
            "variant": manifest.variant,
            "description": manifest.description,
            "kind": schema.kind_of(manifest),
            "curl": line,
            "predict": f"predict/{path}",
            "target": found.path.lstrip("/") if found else f"predict/{path}",
            "type": found.content_type if found else "application/json",
            "example": _typed(found),
            "source": f"examples/{path}" if found else None,
        }

    def _example(self, model: LoadedModel) -> Example | None:
        """The model's example, made once; None where its golden rows cannot be shown."""
        version = None if self._is_default(model) else model.manifest.version
        key = f"{model.manifest.digest} {version}"
        if key not in self._examples:
            try:
                self._examples[key] = example.of(model, model.processor, version=version)
            except PackageError:
                self._examples[key] = None
        return self._examples[key]

    def _is_default(self, model: LoadedModel) -> bool:
        default = self._server.registry.get(model.manifest.name)
        return bool(default.manifest.version == model.manifest.version)


def content_security_policy(html: str) -> str:
    """A policy that allows this page's own script and style, by their hashes, and nothing else."""

    def hashes(element: str) -> str:
        # The data element has a type and is never run, so it needs no hash.
        found = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digests = [hashlib.sha256(text.encode()).digest() for text in found]
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes('script')}",
            f"style-src {hashes('style')}",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _typed(found: Example | None) -> str | None:
    """The example as a person would type it: JSON is indented, numbers in one line each list."""
    if found is None or not found.is_text or len(found.body) > _SHOWN_BYTES:
        return None
    text = found.body.decode("utf-8", "replace")
    if found.content_type != "application/json":
        return text
    document = json.loads(text)
    flat = not any(isinstance(value, (list, dict)) for value in _values(document))
    return json.dumps(document, indent=2 if flat else None, ensure_ascii=False)


def _values(document: Any) -> list[Any]:
    if isinstance(document, dict):
        return list(document.values())
    return document if isinstance(document, list) else []
