"""Which version a model's name alone stands for, to those who only ask about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NotFound

if TYPE_CHECKING:
    from ..registry import LoadedModel
    from ..server import Server


def default(server: Server, name: str) -> LoadedModel:
    """The version that the model's rule calls its default, else the newest.

    A request for a prediction goes by `Traffic.route` instead, and is counted among the shares of
    a canary. Raises `NotFound`.
    """
    rule = server.traffic.rule(name)
    if rule is not None and rule.default is not None:
        try:
            return server.registry.get(name, rule.default)
        except NotFound:  # it is not loaded at the moment; requests fall back on the newest too
            pass
    return server.registry.get(name)
