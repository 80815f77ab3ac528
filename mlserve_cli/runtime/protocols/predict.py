"""`POST /predict/{model}[/{version}]`: rows in and answers out, by the package's processing."""

from __future__ import annotations

from .. import body as bodies
from .. import json_text
from .endpoint import Call, Endpoint, Reply


class Predict(Endpoint):
    """An image file, text, CSV or JSON rows → `{"model", "version", "predictions"}`."""

    protocol = "predict"

    async def answer(self, call: Call) -> Reply:
        """Read, predict, encode."""
        model = self.model(call)
        manifest = model.manifest
        deadline = call.deadline()
        body = await self.body(call)
        with bodies.Watch(call.receive):
            predictions = await self.server.dataplane.predict(
                model, body, call.content_type, deadline=deadline
            )
        # What is not finite becomes null: this protocol is ours, and its JSON is for everyone.
        return Reply(
            json_text.encode(
                {
                    "model": manifest.name,
                    "version": manifest.version,
                    "predictions": predictions,
                }
            )
        )
