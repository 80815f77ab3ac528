"""Promises 15 and 22: probes that never need a key, and a server that says first that it stops."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlserve_cli.runtime import keys
from tests.integration.promises.gated import SERVICE, Gated, Sent, body, grpc_request, shut_in

HEALTH = "/grpc.health.v1.Health"
PROBES = (
    "/livez",
    "/readyz",
    "/ping",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/iris/ready",
    "/v2/models/iris/versions/1/ready",
)
GUARDED = (
    "/metrics",
    "/",
    "/v2",
    "/v2/models/iris",
    "/v2/models/iris/stats",
    "/v2/models/iris/versions/1",
    "/v1/models/iris",
    "/openapi.json",
    "/admin/v1/status",
    "/models",
)


@pytest.mark.parametrize("sent", ["no key", "a wrong key"])
def test_promise_15_probes_never_need_a_key(
    launch: Callable[..., Gated], tmp_path: Path, sent: str
) -> None:
    grpc = pytest.importorskip("grpc")
    made, _ = keys.make("web", ["infer"])
    keys.write(tmp_path / "keys.json", [made])
    server = launch(keys=str(tmp_path / "keys.json"), grpc_port=0)
    wrong = {} if sent == "no key" else {"authorization": "Bearer mls_wrong"}

    assert {path: server.fetch(path, **wrong).status for path in PROBES} == dict.fromkeys(
        PROBES, 200
    )
    assert {path: server.fetch(path, **wrong).status for path in GUARDED} == dict.fromkeys(
        GUARDED, 401
    )
    assert server.fetch("/v2/models/iris/infer", body(1.0), **wrong).status == 401
    # A path that only looks like a probe's.
    assert server.fetch("/v2/models/iris/ready", body(1.0), **wrong).status in (401, 405)
    assert server.fetch("/v2/models/ready", **wrong).status == 401

    with grpc.insecure_channel(server.grpc[0]) as channel:

        def call(method: str, message: bytes = b"") -> Any:
            metadata = tuple(wrong.items())
            return channel.unary_unary(method)(message, timeout=30, metadata=metadata)

        named = b"\x0a\x04iris"  # field 1, a string: the name of a model, or of a service
        assert call(f"{HEALTH}/Check") == b"\x08\x01"  # SERVING
        for method in ("ServerLive", "ServerReady"):
            assert call(f"{SERVICE}/{method}") == b"\x08\x01"
        assert call(f"{SERVICE}/ModelReady", named) == b"\x08\x01"
        for method, message in (
            ("ServerMetadata", b""),
            ("ModelMetadata", named),
            ("ModelStatistics", named),
            ("RepositoryIndex", b""),
            ("ModelInfer", grpc_request(1.0)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(f"{SERVICE}/{method}", message)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, method


def test_promise_22_readiness_flips_first_and_the_listener_stays_for_the_grace(
    launch: Callable[..., Gated],
) -> None:
    grpc = pytest.importorskip("grpc")
    server = launch(grpc_port=0, shutdown_grace_s=3.0)
    in_flight = shut_in(server)
    with grpc.insecure_channel(server.grpc[0]) as channel:
        grpc_in_flight = channel.unary_unary(f"{SERVICE}/ModelInfer").future(grpc_request(1.0))
        server.until(lambda: server.metric("mlserve_queue_rows") == 1)

        server.signal(signal.SIGTERM)

        server.until(lambda: server.fetch("/readyz").status == 503)
        assert server.fetch("/livez").status == 200
        assert channel.unary_unary(f"{HEALTH}/Check")(b"", timeout=30) == b"\x08\x02"
        # Whoever has not heard of it yet is answered, on a connection that begins now.
        assert server.fetch("/v2/models/other/infer", body(5.1)).status == 200
        assert channel.unary_unary(f"{SERVICE}/ModelInfer")(grpc_request(5.1, "other"), timeout=30)
        late = Sent(server, 2.0)
        server.until(lambda: server.metric("mlserve_queue_rows") == 2)

        server.until(lambda: not listens(server))  # the grace is over
        assert in_flight.is_alive()
        server.open()
        assert in_flight.result().status == 200
        assert late.result().status == 200
        assert grpc_in_flight.result(timeout=30)
    assert server.process.wait(30) == 0
    assert "Traceback" not in (server.folder / "log.txt").read_text()


def listens(server: Gated) -> bool:
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()
    return True
