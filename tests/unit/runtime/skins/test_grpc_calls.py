"""gRPC on the event loop that serves: errors, keys, deadlines, clients that leave, the end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from mlserve_cli.runtime import keys, rpc
from mlserve_cli.runtime.errors import (
    Conflict,
    DeadlineExceeded,
    InferenceFailed,
    Overloaded,
    RequestError,
    StartupError,
    Stopping,
)
from mlserve_cli.runtime.monitoring.record import Record
from mlserve_cli.runtime.security import Guard
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.tls import Tls

grpc = pytest.importorskip("grpc")
aio = pytest.importorskip("grpc.aio")
schema = pytest.importorskip("mlserve_cli.runtime.rpc.schema")

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
Story = Callable[[Any, Any], Awaitable[None]]


def sent(**changes: Any) -> bytes:
    """A request of one row for the model that doubles."""
    fields: dict[str, Any] = {
        "model_name": "dbl",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3]}],
        "raw_input_contents": [np.ones(3, np.float32).tobytes()],
    }
    made = schema.message("inference.ModelInferRequest")(**(fields | changes))
    text: bytes = made.SerializeToString()
    return text


def answer(body: bytes) -> list[float]:
    reply = schema.message("inference.ModelInferResponse").FromString(body)
    return np.frombuffer(reply.raw_output_contents[0], np.float32).tolist()


@pytest.fixture
def play(server: Any, load: Any) -> Callable[..., None]:
    """Run a story with a server on uvloop, and a channel to it."""
    load()
    server.tls = Tls(server.settings, Path())

    def run(story: Story, **options: Any) -> None:
        async def all_of_it() -> None:
            serving = await rpc.start(server, "127.0.0.1", [0])
            try:
                async with aio.insecure_channel(f"127.0.0.1:{serving.ports[0]}") as channel:
                    async with asyncio.timeout(30):
                        await story(channel, serving)
            finally:
                await serving.stop(None)

        uvloop.run(all_of_it(), **options)

    return run


async def failed(call: Awaitable[Any]) -> Any:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until it is so."""
    while not condition():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.001)


def test_a_reply_carries_the_clients_request_id(play: Any) -> None:
    async def story(channel: Any, serving: Any) -> None:
        call = channel.unary_unary(INFER)(sent(), metadata=[("x-request-id", "mine")])
        assert answer(await call) == [2, 2, 2]
        assert ("x-request-id", "mine") in list(await call.trailing_metadata())

    play(story)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Overloaded("the queue is full", retry_after_s=3), "UNAVAILABLE"),
        (Stopping("the server stops", retry_after_s=1), "UNAVAILABLE"),
        (DeadlineExceeded("Request timeout expired"), "DEADLINE_EXCEEDED"),
        (InferenceFailed("the engine failed"), "INTERNAL"),
        (Conflict("not now"), "FAILED_PRECONDITION"),
        (RequestError("häß \ud800"), "INVALID_ARGUMENT"),
    ],
)
def test_each_error_has_its_status(play: Any, server: Any, error: Any, code: str) -> None:
    server.dataplane.error = error

    async def story(channel: Any, serving: Any) -> None:
        found = await failed(channel.unary_unary(INFER)(sent(id="7")))
        assert found.code().name == code
        assert found.details().startswith("[request id: 7] ")
        full = "[request id: 7] Exceeds maximum queue size: "  # clients of Triton look for it
        assert found.details().startswith(full) is isinstance(error, Overloaded)
        trailing = dict(found.trailing_metadata())
        if error.retry_after_s is None:
            assert "retry-after" not in trailing
        else:
            assert trailing["retry-after"] == str(error.retry_after_s)
            assert trailing["grpc-retry-pushback-ms"] == str(error.retry_after_s * 1000)

    play(story)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [Overloaded("full", retry_after_s=1), ValueError("a bug")])
def test_an_error_that_was_answered_holds_no_frames(
    play: Any, server: Any, error: Any, stream: bool
) -> None:
    error.__cause__ = cause = KeyError("why")
    try:
        raise cause
    except KeyError:
        assert cause.__traceback__ is not None
    server.dataplane.error = error

    async def story(channel: Any, serving: Any) -> None:
        if stream:
            answers = [text async for text in channel.stream_stream(STREAM)(iter([sent()]))]
            assert len(answers) == 1
        else:
            await failed(channel.unary_unary(INFER)(sent()))
        assert error.__traceback__ is None
        assert cause.__traceback__ is None

    play(story)


def test_a_bug_is_told_by_an_id_alone(
    play: Any, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.dataplane.error = ZeroDivisionError("a secret")

    async def story(channel: Any, serving: Any) -> None:
        found = await failed(channel.unary_unary(INFER)(sent()))
        assert found.code() == grpc.StatusCode.INTERNAL
        assert "secret" not in found.details()
        assert found.details().rpartition(" ")[2] in caplog.text

    play(story)


def test_a_client_that_leaves_leaves_no_trace(play: Any, server: Any) -> None:
    told: list[Record] = []
    server.watchers.trace(told.append)
    server.dataplane.never = True

    async def story(channel: Any, serving: Any) -> None:
        call = channel.unary_unary(INFER)(sent())
        await server.dataplane.asked.wait()
        call.cancel()
        await until(lambda: told)
        assert server.dataplane.cancelled == 1
        assert [record.status for record in told] == [499]
        server.dataplane.never = False
        assert answer(await channel.unary_unary(INFER)(sent())) == [2, 2, 2]

    play(story)


def test_the_earlier_of_two_deadlines_counts(play: Any, server: Any) -> None:
    async def story(channel: Any, serving: Any) -> None:
        call, now = channel.unary_unary(INFER), asyncio.get_running_loop().time
        timeout = {"timeout": {"int64_param": 5_000_000}}
        began = now()
        await call(sent(), timeout=50)
        await call(sent(parameters=timeout))
        await call(sent(parameters=timeout), timeout=50)
        await call(sent(parameters=timeout), timeout=3)
        await call(sent())
        *found, none = server.dataplane.deadlines
        slack = now() - began + 0.5  # gRPC sends tenths of a second, from 100 s on whole ones
        for deadline, seconds in zip(found, (50, 5, 5, 3), strict=True):
            assert abs(deadline - began - seconds) <= slack
        assert none is None

    play(story)


def test_a_deadline_that_passes_ends_the_work(play: Any, server: Any) -> None:
    server.dataplane.never = True

    async def story(channel: Any, serving: Any) -> None:
        found = await failed(channel.unary_unary(INFER)(sent(), timeout=0.1))
        assert found.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: server.dataplane.cancelled)

    play(story)


def test_priorities_reach_the_data_plane(play: Any, server: Any) -> None:
    async def story(channel: Any, serving: Any) -> None:
        call = channel.unary_unary(INFER)
        await call(sent(parameters={"priority": {"uint64_param": 1}}))
        await call(sent())
        assert server.dataplane.priorities == [1, 0]
        wrong = {"priority": {"string_param": "high"}}
        found = await failed(call(sent(parameters=wrong)))
        assert "parameter 'priority' is 'high'" in found.details()

    play(story)


def test_keys_are_asked_for_except_by_probes(play: Any, server: Any, tmp_path: Path) -> None:
    secret = "a key of sufficient length"
    record = keys.Key(
        name="me", sha256=keys.digest(secret), scopes=("infer",), created=date(2026, 1, 1)
    )
    server.guard = Guard(Settings(keys="keys.toml"), tmp_path)
    server.guard._keys = {record.sha256: record}
    server.guard._look_again = lambda: None

    async def story(channel: Any, serving: Any) -> None:
        call = channel.unary_unary(INFER)
        for metadata in (None, [("x-api-key", "wrong")], [("authorization", "Bearer wrong")]):
            found = await failed(call(sent(), metadata=metadata))
            assert found.code() == grpc.StatusCode.UNAUTHENTICATED
        for metadata in ([("x-api-key", secret)], [("authorization", f"Bearer {secret}")]):
            assert answer(await call(sent(), metadata=metadata)) == [2, 2, 2]
        stream = channel.stream_stream(STREAM)(iter([sent()]))
        with pytest.raises(aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        unload = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")
        found = await failed(unload(b"", metadata=[("x-api-key", secret)]))
        assert found.code() == grpc.StatusCode.PERMISSION_DENIED
        for path in ("/inference.GRPCInferenceService/ServerReady", "/grpc.health.v1.Health/Check"):
            assert await channel.unary_unary(path)(b"")

    play(story)


def test_a_stream_is_answered_in_order_while_others_wait(play: Any, server: Any) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    begun: list[int] = []
    run = server.dataplane.infer

    async def gated(model: Any, given: Any, **options: Any) -> Any:
        number = int(given["x"][0, 0])
        begun.append(number)
        await gates[number].wait()
        return await run(model, given, **options)

    server.dataplane.infer = gated
    reply = schema.message("inference.ModelStreamInferResponse")

    async def story(channel: Any, serving: Any) -> None:
        stream = channel.stream_stream(STREAM)()
        for number in range(3):
            raw = np.full(3, number, np.float32).tobytes()
            await stream.write(sent(id=str(number), raw_input_contents=[raw]))
        await stream.done_writing()
        for number in (2, 1, 0):
            await until(lambda number=number: number in begun)
            gates[number].set()
        found = [reply.FromString(body).infer_response.id async for body in stream]
        assert found == ["0", "1", "2"]

    play(story)


def test_a_strict_stream_ends_with_the_status_of_its_first_error(play: Any) -> None:
    async def story(channel: Any, serving: Any) -> None:
        metadata = [("triton_grpc_error", "true")]
        requests = [sent(), sent(model_name="nope"), sent()]
        stream = channel.stream_stream(STREAM)(iter(requests), metadata=metadata)
        assert await stream.read()
        with pytest.raises(aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    play(story)


def test_a_stream_that_is_left_leaves_nothing_behind(play: Any, server: Any) -> None:
    server.dataplane.never = True

    async def story(channel: Any, serving: Any) -> None:
        stream = channel.stream_stream(STREAM)()
        for _ in range(3):
            await stream.write(sent())
        await until(lambda: len(server.dataplane.given) == 3)
        stream.cancel()
        await until(lambda: server.dataplane.cancelled == 3)

    play(story)


def test_who_watches_the_health_is_told_of_each_change(play: Any, server: Any) -> None:
    status = schema.message("grpc.health.v1.HealthCheckResponse")

    async def story(channel: Any, serving: Any) -> None:
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        found = [status.FromString(await watched.read()).status]
        for ready in (False, True):
            server.is_ready = ready
            serving.changed()
            found.append(status.FromString(await watched.read()).status)
        assert found == [1, 2, 1]
        ending = asyncio.create_task(serving.stop(20))  # a watch must not hold it up
        assert status.FromString(await watched.read()).status == 2
        assert await watched.read() == aio.EOF
        await ending

    play(story)


PREDICT = "/tensorflow.serving.PredictionService/Predict"


def predicted() -> bytes:
    """The same request, as TensorFlow Serving's clients send it."""
    made = schema.message("tensorflow.serving.PredictRequest")(model_spec={"name": "dbl"})
    tensor = made.inputs["x"]
    tensor.dtype = 1
    for size in (1, 3):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend([1, 1, 1])
    text: bytes = made.SerializeToString()
    return text


def test_messages_count_as_bytes_in_flight_until_they_are_tensors(play: Any, server: Any) -> None:
    plane = server.dataplane

    async def story(channel: Any, serving: Any) -> None:
        for path, good, bad in (
            (INFER, sent(), sent(model_name="nope")),
            (PREDICT, predicted(), b"\xff"),
        ):
            plane.held.clear()
            call = channel.unary_unary(path)
            await call(good)
            for body in (bad, b"\x0b"):
                await failed(call(body))
            assert plane.held == [len(good), len(bad), 1]
        stream = channel.stream_stream(STREAM)(iter([sent(), b"\x0b", sent(id="2")]))
        assert len([reply async for reply in stream]) == 3
        assert plane.held[3:] == [len(sent()), 1, len(sent(id="2"))]
        assert set(plane.still_held) == {0}  # `infer` counts the tensors itself
        assert plane.bytes_in_flight == 0
        await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        assert len(plane.held) == 6

    play(story)


def test_messages_beyond_what_may_be_in_memory_are_refused_and_probes_are_not(
    play: Any, server: Any
) -> None:
    server.dataplane.max_bytes = len(sent()) - 1

    async def story(channel: Any, serving: Any) -> None:
        for path, body in ((INFER, sent()), (PREDICT, predicted())):
            found = await failed(channel.unary_unary(path)(body))
            assert found.code() == grpc.StatusCode.UNAVAILABLE
            assert "max_inflight_mb allows no more" in found.details()
            assert dict(found.trailing_metadata())["retry-after"] == "1"
        stream = channel.stream_stream(STREAM)(iter([sent()]))
        reply = schema.message("inference.ModelStreamInferResponse").FromString(await stream.read())
        assert "max_inflight_mb allows no more" in reply.error_message
        strict = channel.stream_stream(STREAM)(
            iter([sent()]), metadata=[("triton_grpc_error", "true")]
        )
        with pytest.raises(aio.AioRpcError) as caught:
            await strict.read()
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert server.dataplane.given == []
        assert await verdicts(channel) == [True] * 6

    play(story)


def test_the_message_of_a_call_that_is_left_counts_no_more(play: Any, server: Any) -> None:
    server.dataplane.never = True

    async def story(channel: Any, serving: Any) -> None:
        call = channel.unary_unary(INFER)(sent())
        await server.dataplane.asked.wait()
        call.cancel()
        await until(lambda: server.dataplane.cancelled)
        assert server.dataplane.bytes_in_flight == 0

    play(story)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("PredictionService/Classify", "Classify is not served over gRPC (hint: call Predict"),
        ("PredictionService/Regress", "Regress is not served over gRPC (hint: call Predict"),
        ("PredictionService/MultiInference", "MultiInference is not served over gRPC"),
        ("ModelService/HandleReloadConfigRequest", "cannot be set over TensorFlow Serving's API"),
    ],
)
def test_what_tensorflow_serving_has_beside_is_refused_whatever_was_sent(
    play: Any, path: str, sentence: str
) -> None:
    bodies = [
        b"",
        b"\x0a\x05\x0a\x03dbl\x12\x04\x0a\x02\x0a\x00",  # a model_spec and an input
        b"\x0a\x02\xff\xfe",  # bytes that are no text, in field 1
    ]

    async def story(channel: Any, serving: Any) -> None:
        for body in bodies:
            found = await failed(channel.unary_unary(f"/tensorflow.serving.{path}")(body))
            assert found.code() == grpc.StatusCode.UNIMPLEMENTED
            assert sentence in found.details()

    play(story)


async def verdicts(channel: Any) -> list[bool]:
    """What each question about readiness is answered with."""
    oip, health = "inference.GRPCInferenceService", "grpc.health.v1.Health"

    async def ask(path: str, reply: str, **fields: str) -> Any:
        asked = schema.message(reply.replace("Response", "Request"))(**fields)
        call = channel.unary_unary(f"/{path}")
        return schema.message(reply).FromString(await call(asked.SerializeToString()))

    found = [(await ask(f"{oip}/ServerReady", "inference.ServerReadyResponse")).ready]
    for version in ("", "1"):
        reply = "inference.ModelReadyResponse"
        found.append((await ask(f"{oip}/ModelReady", reply, name="dbl", version=version)).ready)
    for name in ("", "dbl", oip):
        checked = await ask(f"{health}/Check", f"{health}CheckResponse", service=name)
        found.append(checked.status == checked.SERVING)
    return found


def test_an_engine_that_broke_is_not_ready_over_grpc_either(play: Any, server: Any) -> None:
    async def story(channel: Any, serving: Any) -> None:
        assert await verdicts(channel) == [True] * 6
        assert server.dataplane.given == []  # no engine failed, so none was asked
        server.dataplane.error = InferenceFailed("the device is lost")
        assert (await failed(channel.unary_unary(INFER)(sent()))).code().name == "INTERNAL"
        assert await verdicts(channel) == [False] * 6
        assert not await server.readiness.server()  # what /readyz asks
        server.dataplane.error = None
        assert await verdicts(channel) == [True] * 6

    play(story)


def test_a_question_for_the_health_that_cannot_be_read_is_the_clients_error(
    play: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(channel: Any, serving: Any) -> None:
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0b")
        for call in (channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0b"), watched.read()):
            found = await failed(call)
            assert found.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "no grpc.health.v1.HealthCheckRequest" in found.details()

    play(story)
    assert "Traceback" not in caplog.text


def test_who_watches_the_health_sees_an_engine_break_and_recover(
    play: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc_health = pytest.importorskip("mlserve_cli.runtime.rpc.health")
    monkeypatch.setattr(rpc_health, "RETRY_S", 0.01)
    status = schema.message("grpc.health.v1.HealthCheckResponse")

    async def story(channel: Any, serving: Any) -> None:
        server.rpc = serving
        watched = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert status.FromString(await watched.read()).status == status.SERVING
        server.dataplane.error = InferenceFailed("the device is lost")
        await failed(channel.unary_unary(INFER)(sent()))
        assert status.FromString(await watched.read()).status == status.NOT_SERVING
        server.dataplane.error = None  # nobody sends anything that would show it
        assert status.FromString(await watched.read()).status == status.SERVING
        watched.cancel()

    play(story)


def test_calls_in_flight_are_answered_when_the_server_stops(play: Any, server: Any) -> None:
    gate = asyncio.Event()
    run = server.dataplane.infer

    async def gated(*given: Any, **options: Any) -> Any:
        server.dataplane.asked.set()
        await gate.wait()
        return await run(*given, **options)

    server.dataplane.infer = gated

    async def story(channel: Any, serving: Any) -> None:
        call = channel.unary_unary(INFER)(sent())
        await server.dataplane.asked.wait()
        ending = asyncio.create_task(serving.stop(20))
        await asyncio.sleep(0)
        gate.set()
        assert answer(await call) == [2, 2, 2]
        await ending

    play(story)


def test_many_calls_at_once_are_each_answered_with_their_own(play: Any) -> None:
    async def story(channel: Any, serving: Any) -> None:
        call = channel.unary_unary(INFER)

        async def one(number: int) -> None:
            raw = np.full(3, number, np.float32).tobytes()
            assert answer(await call(sent(raw_input_contents=[raw]))) == [number * 2] * 3

        await asyncio.gather(*map(one, range(200)))

    play(story, debug=False)


def test_a_port_that_is_taken_is_said(server: Any) -> None:
    server.tls = Tls(server.settings, Path())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"cannot listen at 127.0.0.1:{port} for gRPC"):
            uvloop.run(rpc.start(server, "127.0.0.1", [port]))


def test_without_the_extra_it_says_how_to_get_it(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "_installed", lambda library: False)
    with pytest.raises(StartupError) as caught:
        uvloop.run(rpc.start(server, "127.0.0.1", [0]))
    assert "mlserve-cli[grpc]" in (caught.value.hint or "")


def certificate(folder: Path, name: str) -> bytes:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    more = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run([*command.split(), *files, *more], check=True, capture_output=True)
    return (folder / "cert.pem").read_bytes()


def test_a_certificate_is_renewed_without_a_pause(server: Any, load: Any, tmp_path: Path) -> None:
    load()
    first = certificate(tmp_path, "first.test")
    server.tls = Tls(Settings(tls_cert="cert.pem", tls_key="key.pem"), tmp_path)

    async def ask(serving: Any, trusted: bytes, name: str) -> list[float]:
        credentials = grpc.ssl_channel_credentials(trusted)
        options = [
            ("grpc.ssl_target_name_override", name),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        address = f"127.0.0.1:{serving.ports[0]}"
        async with aio.secure_channel(address, credentials, options=options) as channel:
            return answer(await channel.unary_unary(INFER)(sent(), timeout=20))

    async def story() -> None:
        serving = await rpc.start(server, "127.0.0.1", [0])
        try:
            assert await ask(serving, first, "first.test") == [2, 2, 2]
            second = certificate(tmp_path, "second.test")
            await serving.renew(server.tls)
            assert await ask(serving, second, "second.test") == [2, 2, 2]
        finally:
            await serving.stop(None)

    uvloop.run(story())
