"""Parts of the Open Inference Protocol, as Triton extends it, that are answered with a 501.

Each says why, and what to do instead. `EXTENSIONS` of `health` does not name them, so that clients
which look there first do not ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from ..errors import NotImplementedHere

View = Callable[[Request], Awaitable[Response]]

_MEMORY = "a request's tensors come in its body"
_COPIED = "send them as binary, which is copied once"
_REGIONS = tuple(
    f"{region}/{action}"
    for region in ("", "/region/{name}")
    for action in ("status", "register", "unregister")
)
_OF_MODELS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")

NOT_OFFERED: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        tuple(f"/v2/systemsharedmemory{region}" for region in _REGIONS),
        f"system shared memory is not served: {_MEMORY}",
        _COPIED,
    ),
    (
        tuple(f"/v2/cudasharedmemory{region}" for region in _REGIONS),
        f"CUDA shared memory is not served: {_MEMORY}",
        _COPIED,
    ),
    (
        ("/v2/logging",),
        "what is logged cannot be changed by a request",
        "change log_format or access_log in the server's settings",
    ),
    (
        ("/v2/trace/setting", *(f"{model}/trace/setting" for model in _OF_MODELS)),
        "what is traced cannot be changed by a request",
        "set traces to 'otlp', and OpenTelemetry's own variables",
    ),
    (
        tuple(
            f"{model}/{verb}" for model in _OF_MODELS for verb in ("generate", "generate_stream")
        ),
        "text generation is not served",
        "send tensors to /v2/models/MODEL/infer",
    ),
)
"""Paths → why they are refused, and what to do instead."""


def views() -> dict[str, View]:
    """Each path that is answered so, and its view."""
    return {path: _refusing(why, hint) for paths, why, hint in NOT_OFFERED for path in paths}


def _refusing(why: str, hint: str) -> View:
    async def refuse(request: Request) -> Response:
        raise NotImplementedHere(why, hint=hint)

    return refuse
