"""Who operates the server meanwhile: canaries, promotions, models loaded anew."""

import json

from .over_http import post, send

STORY = (
    ("tiny/canary", {"version": "2", "percent": 30}),
    ("tiny/reload", {"version": "1"}),
    ("tiny/promote", {}),
    ("tiny/rollback", {}),
    ("slow/reload", {}),
    ("tiny/canary", {"version": "2", "percent": 70}),
    ("tiny/reload", {"version": "2"}),
    ("tiny/rollback", {}),
)
"""Shifts the traffic of `tiny` to and fro, and reloads both models beside it."""


async def operator(chaos):
    """Play the story to its end, which is where it began."""
    for path, body in STORY:
        reply = await send(chaos, post(f"/admin/v1/models/{path}", json.dumps(body).encode()))
        assert reply.status == 200, (path, reply)
        chaos.seen["operations"] += 1


async def reloading(chaos):
    """Load a model anew, also while the server is told to stop: done, or refused with a reason."""
    reply = await send(chaos, post("/admin/v1/models/slow/reload", b""))
    if reply.status == 503:
        assert "shutting down" in reply.document["error"], reply
        chaos.seen["operations refused"] += 1
    else:
        assert reply.status == 200, reply
        chaos.seen["operations"] += 1
