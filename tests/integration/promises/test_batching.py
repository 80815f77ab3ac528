"""Promises 13, 14, 16 and 20: how requests share the engine, and what becomes of those who fail.

A real server process, whose engine waits when the test says so and writes down what it ran.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable

import pytest

from tests.integration.promises.gated import (
    GATE,
    POISON,
    SERVICE,
    Gated,
    Sent,
    body,
    grpc_request,
    queued,
    shut_in,
)


def test_promise_13_a_lone_request_never_waits(server: Gated) -> None:
    waits = []
    for _ in range(10):
        answer = server.fetch("/v2/models/iris/infer", body(5.1))
        assert answer.status == 200
        waits.append(float(re.findall(r"queue;dur=([\d.]+)", answer.headers["server-timing"])[0]))

    # A batch window would be seen in every one of them; a busy machine only in some.
    assert min(waits) < 1, waits
    assert server.batches() == [[pytest.approx(5.1)]] * 10


def test_promise_13_a_lone_request_does_not_wait_for_a_busy_model_either(server: Gated) -> None:
    busy = shut_in(server)

    answer = server.fetch("/v2/models/other/infer", body(5.1))

    assert answer.status == 200
    assert busy.is_alive()
    server.open()
    assert busy.result().status == 200


def test_promise_14_one_bad_request_fails_alone(server: Gated) -> None:
    alone = server.fetch("/v2/models/other/infer", body(1.0))
    (server.folder / "batches").write_text("")
    first = shut_in(server)
    sent = {value: Sent(server, value) for value in (1.0, 2.0, POISON, 4.0)}
    queued(server, 4)

    server.open()

    assert first.result().status == 200
    assert sent.pop(POISON).result().status == 500
    assert {each.result().status for each in sent.values()} == {200}
    scores = [json.loads(each.text)["outputs"][0]["data"] for each in (alone, sent[1.0].result())]
    assert scores[0] == pytest.approx(scores[1])
    assert sorted(server.batches()[1]) == [POISON, 1.0, 2.0, 4.0], "they did not share a batch"


def test_promise_16_overload_is_bounded_and_seen(server: Gated) -> None:
    first = shut_in(server)
    waiting = [Sent(server, 1.0) for _ in range(5)]
    queued(server, 5)

    refused = server.fetch("/v2/models/iris/infer", body(1.0))

    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "5 rows wait, and max_queue_rows is 5" in refused.text
    assert server.metric("mlserve_rejections_total") == 1
    server.open()
    assert {each.result().status for each in (first, *waiting)} == {200}


def test_promise_16_who_is_late_is_told_and_never_computed(server: Gated) -> None:
    first = shut_in(server)

    late = server.fetch("/v2/models/iris/infer", body(9.0), **{"X-Request-Timeout-Ms": "50"})

    assert late.status == 503, late.text  # as this protocol says it
    assert "Request timeout expired" in late.text
    server.open()
    assert first.result().status == 200
    assert server.fetch("/v2/models/iris/infer", body(1.0)).status == 200
    assert [9.0] not in server.batches()
    assert 'reason="deadline"' in server.fetch("/metrics").text


def test_promise_16_every_refusal_is_counted_by_its_reason(launch: Callable[..., Gated]) -> None:
    server = launch(max_body_mb=0.01, grpc_port=0)
    grpc = pytest.importorskip("grpc")
    path = "/v2/models/iris/infer"
    first = shut_in(server)
    waiting = [Sent(server, 1.0) for _ in range(5)]
    queued(server, 5)
    with (
        grpc.insecure_channel(server.grpc[0]) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(f"{SERVICE}/ModelInfer")(grpc_request(1.0), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert int(dict(caught.value.trailing_metadata())["retry-after"]) >= 1
    assert server.fetch(path, body(1.0)).status == 503
    server.open()
    for each in (first, *waiting):
        assert each.result().status == 200
    assert server.fetch(path, b"{").status == 400
    assert server.fetch(path, body(1.0)[:-2] + b" " * 11_000).status == 413
    assert server.fetch(path, body(POISON)).status == 500
    assert server.fetch("/v2/models/nobody/infer", body(1.0)).status in (400, 404)

    for reason, count in {"overloaded": 2, "too_large": 1, "engine": 1}.items():
        labels = {"reason": reason}
        of_any = sum(
            server.metric("mlserve_rejections_total", model=model, **labels)
            for model in ("iris", "")
        )
        assert of_any == count, (reason, server.fetch("/metrics").text)
    assert server.metric("mlserve_rejections_total", model="", reason="not_found") == 1
    invalid = [
        server.metric("mlserve_rejections_total", model=model, reason="invalid")
        for model in ("iris", "")
    ]
    assert sum(invalid) == 1


def test_promise_20_a_call_that_is_cancelled_leaves_nothing_behind(
    launch: Callable[..., Gated],
) -> None:
    grpc = pytest.importorskip("grpc")
    server = launch(grpc_port=0)
    first = shut_in(server)
    stays = Sent(server, 1.0)
    with grpc.insecure_channel(server.grpc[0]) as channel:
        call = channel.unary_unary(f"{SERVICE}/ModelInfer").future(grpc_request(9.0))
        stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(
            iter([grpc_request(8.0), grpc_request(7.0)])
        )
        queued(server, 4)
        call.cancel()
        stream.cancel()
        queued(server, 1)
    server.open()

    assert first.result().status == 200
    assert stays.result().status == 200
    assert server.batches() == [[GATE], [1.0]]
    queued(server, 0)


def test_promise_20_a_client_that_leaves_leaves_nothing_behind(server: Gated) -> None:
    first = shut_in(server)
    stays = Sent(server, 1.0)
    text = body(9.0)
    with socket.create_connection(server.address) as leaving:
        leaving.sendall(
            b"POST /v2/models/iris/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        queued(server, 2)

    queued(server, 1)
    server.open()

    assert first.result().status == 200
    assert stays.result().status == 200
    assert server.batches() == [[GATE], [1.0]]
    queued(server, 0)
