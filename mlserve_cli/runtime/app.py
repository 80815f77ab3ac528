"""The application: every route of a server, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette

from . import routes

if TYPE_CHECKING:
    from .server import Server


def build_app(server: Server) -> Starlette:
    """The ASGI application for `server`; its lifespan loads the models and drains them."""
    app = Starlette(
        routes=[
            *routes.inference(server),
            *routes.prediction(server),
            *routes.monitoring(server),
            *routes.tensorflow(server),
            *routes.torchserve(server),
            *routes.admin(server),
            *routes.pages(server),
        ],
        middleware=routes.middleware(server),
        exception_handlers=routes.exception_handlers,
        lifespan=server.lifespan,
    )
    # `/v2/` is not `/v2`: a redirect would turn a client's typing error into a second request.
    app.router.redirect_slashes = False
    return app
