"""`POST /predict/{model}[/{version}]`: rows in and answers out, by the package's processing."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .. import json_text
from ..processing import multipart
from .endpoint import Call, Endpoint, Reply

if TYPE_CHECKING:
    from ..registry import LoadedModel


class Predict(Endpoint):
    """An image file, text, CSV, JSON rows or a form → `{"model", "version", "predictions"}`."""

    protocol = "predict"

    async def answer(self, call: Call) -> Reply:
        """Read, predict, encode."""
        model, body = await self._received(call)
        deadline = call.deadline()
        with call.watch:
            predictions = await self.server.dataplane.predict(
                model,
                body,
                call.content_type,
                deadline=deadline,
                priority=call.priority,
                timing=call.timing,
                asked=call,
            )
        return self.reply(model, body, predictions)

    def reply(self, model: LoadedModel, body: bytes, predictions: list[Any]) -> Reply:
        """The answers to the rows of `body`, as the protocol sends them."""
        # What is not finite becomes null: this protocol is ours, and its JSON is for everyone.
        return Reply(
            json_text.encode(
                {
                    "model": model.manifest.name,
                    "version": model.manifest.version,
                    "predictions": predictions,
                }
            )
        )

    async def _received(self, call: Call) -> tuple[LoadedModel, bytes]:
        """The model that answers, and the body.

        What is unknown costs nothing, so the model comes first; unless a value in the body decides
        which version it is.
        """
        rule = self.server.traffic.rule(call.parameters["model"])
        if rule is None or not (rule.sticky or "").startswith("field:"):
            return self.model(call), await self.body(call)
        body = await self.body(call)
        return self.model(call, field=partial(multipart.lookup, body, call.content_type)), body
