"""Every error that the runtime raises on purpose.

    MlserveError                  a sentence and a hint, shown to a person as they are
    ├── PackageError              a package is missing, damaged, or of a newer schema
    ├── SettingsError             a setting is unknown, of the wrong type or out of range
    ├── EngineError               an engine is not installed or cannot load a model
    ├── StartupError              the server could not start (port in use, nothing to serve)
    └── RequestError              answered to a client with `status` and counted by `reason`
        ├── InvalidRequest        400  the request does not fit the signature
        ├── Unauthorized          401  a key is needed, or the one sent is not known
        ├── Forbidden             403  the key, or the address, does not allow it
        ├── NotFound              404  unknown model, version or path
        ├── Conflict              409  it cannot be done in the state that things are in
        ├── TooLarge              413  the body is over the limit
        ├── UnsupportedMedia      415  a content type or encoding that is not served
        ├── InferenceFailed       500  the engine failed on this very request
        ├── NotImplementedHere    501  a feature of the protocol that is not offered
        ├── Overloaded            503  the queue is full; carries Retry-After
        ├── Stopping              503  the server is shutting down; carries Retry-After
        └── DeadlineExceeded      504  the caller's deadline passed before an answer was ready

Anything else that escapes is a bug: the client gets a bare 500 with an id, the log the details.
"""

from __future__ import annotations

import re

_SECRETS = re.compile(
    r"(?<=://)[^/?#\s'\"]*@"
    r"|(?<=[?&])(?P<name>X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|sig"
    r"|token|access_token|api_?key|key|password|secret)=[^&#\s'\"]*",
    re.IGNORECASE,
)
"""In URLs: user and password before the host (RFC 3986, section 3.2.1), and what signs a query."""


def without_secrets(text: str) -> str:
    """A URL, or text with URLs in it, as others may see it."""
    if "://" not in text:
        return text
    return _SECRETS.sub(lambda found: f"{found['name']}=…" if found["name"] else "…@", text)


class MlserveError(Exception):
    """One sentence that names the thing, the value and what is allowed, and a hint. What URLs in
    them hold of secrets is left out."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = without_secrets(message)
        super().__init__(message)
        self.message = message
        self.hint = None if hint is None else without_secrets(hint)


class PackageError(MlserveError):
    """A package is missing, damaged, or of a newer schema."""


class SettingsError(MlserveError):
    """A setting is unknown, of the wrong type or out of range."""


class EngineError(MlserveError):
    """An engine is not installed or cannot load a model."""


class StartupError(MlserveError):
    """The server could not start."""


class RequestError(MlserveError):
    """An error that a client is told about."""

    status = 400
    reason = "invalid"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class InvalidRequest(RequestError):
    """The request does not fit the model's signature or the protocol."""


class Unauthorized(RequestError):
    """A key is needed, or the one sent is not known."""

    status = 401
    reason = "unauthorized"


class Forbidden(RequestError):
    """The key, or the address, does not allow it."""

    status = 403
    reason = "forbidden"


class NotFound(RequestError):
    """Unknown model, version or path."""

    status = 404
    reason = "not_found"


class Conflict(RequestError):
    """It cannot be done in the state that things are in."""

    status = 409
    reason = "conflict"


class TooLarge(RequestError):
    """The body is over the limit."""

    status = 413
    reason = "too_large"


class UnsupportedMedia(RequestError):
    """A content type or encoding that is not served."""

    status = 415
    reason = "unsupported_media"


class InferenceFailed(RequestError):
    """The engine failed on this very request."""

    status = 500
    reason = "engine"


class NotImplementedHere(RequestError):
    """A feature of the protocol that is not offered."""

    status = 501
    reason = "not_implemented"


class Overloaded(RequestError):
    """The queue is full."""

    status = 503
    reason = "overloaded"


class Stopping(RequestError):
    """The server is shutting down."""

    status = 503
    reason = "stopping"


class DeadlineExceeded(RequestError):
    """The caller's deadline passed before an answer was ready."""

    status = 504
    reason = "deadline"


def contained(error: BaseException) -> Exception:
    """What code that is not ours raised, as an error that ends what it was asked for and no more.

    Whoever waits for it would take `SystemExit` for the end of the server, `CancelledError` for its
    own, and never hear of a `StopIteration`, which no future takes.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    found = RuntimeError(f"{type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def release(error: BaseException) -> None:
    """Let go of where an error came from, once it was answered and logged.

    Its traceback holds every frame that it passed, so the request's tensors and its model; some of
    these frames hold the error, or the future that brought it. Such a circle is freed only when the
    garbage collector comes by, which in a server that is refusing requests is too late.
    """
    causes: list[BaseException | None] = [error]
    while causes:
        each = causes.pop()
        if each is not None and each.__traceback__ is not None:
            each.__traceback__ = None
            causes += (each.__cause__, each.__context__)
    error.__cause__ = error.__context__ = None
