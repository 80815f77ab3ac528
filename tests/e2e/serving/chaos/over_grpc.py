"""The crowd's gRPC clients: unary calls and streams, deadlines, cancellations, garbage."""

import asyncio
import contextlib

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2

from .crowd import HANG_S, LIMIT_MB, Lost
from .models import POISON, slow_rows, tiny_rows

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"

REFUSED = "the queue is full"
CODE = grpc.StatusCode


@contextlib.asynccontextmanager
async def channel(chaos):
    """A connection that is shared with nobody."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(chaos.grpc, options=options) as made:
        yield made


def request(name, tensors, identity=""):
    names = {"float32": "FP32", "int64": "INT64"}
    sent = service_pb2.ModelInferRequest(model_name=name, id=identity)
    for each, array in tensors.items():
        sent.inputs.add(name=each, datatype=names[array.dtype.name], shape=array.shape)
        sent.raw_input_contents.append(array.tobytes())
    return sent


def outputs_of(reply):
    """Arrays by name."""
    return {
        output.name: np.frombuffer(raw, np.float32).reshape(output.shape)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


async def ask(chaos, made, message, **options):
    """(reply, None), or (None, the error) as gRPC has it. Raises `Lost` where nothing comes."""
    chaos.in_flight += 1
    body = message if isinstance(message, bytes) else message.SerializeToString()
    try:
        async with asyncio.timeout(HANG_S):
            reply = await made.unary_unary(INFER)(body, **options)
        return service_pb2.ModelInferResponse.FromString(reply), None
    except grpc.aio.AioRpcError as error:
        return None, error
    except TimeoutError as error:
        raise Lost(f"{body[:80]!r}") from error
    finally:
        chaos.in_flight -= 1


def refused_by_rule(error):
    """Whether a call was told when to come again."""
    trailing = dict(error.trailing_metadata() or ())
    return error.code() is CODE.UNAVAILABLE and "retry-after" in trailing


async def unary(chaos):
    """Good calls on one connection, many at a time."""
    async with channel(chaos) as made:

        async def one():
            name, rows = chaos.chance.choice([("tiny", tiny_rows), ("slow", slow_rows)])
            tensors = rows(chaos.seed() + np.arange(chaos.chance.randint(1, 5)))
            reply, error = await ask(chaos, made, request(name, tensors))
            if error is not None:
                assert name == "slow", error
                assert refused_by_rule(error), error
                chaos.seen["grpc: refused"] += 1
                return
            chaos.right("grpc", name, reply.model_version, tensors, outputs_of(reply))

        for _ in range(5):
            await asyncio.gather(*(one() for _ in range(chaos.chance.randint(1, 6))))


async def streaming(chaos):
    """Many requests on one call; the answers come in their order, some of them refusals."""
    sent = []
    for index in range(20):
        name, rows = chaos.chance.choice([("tiny", tiny_rows), ("slow", slow_rows)])
        tensors = rows(chaos.seed() + np.arange(chaos.chance.randint(1, 4)))
        if bad := name == "slow" and chaos.chance.random() < 0.1:
            tensors["pick"] = np.full_like(tensors["pick"], POISON)
        sent.append((name, tensors, str(index), bad))
    async with channel(chaos) as made:
        call = made.stream_stream(STREAM)(
            (request(*each[:3]).SerializeToString() for each in sent), timeout=HANG_S
        )
        chaos.in_flight += 1
        try:
            answers = [service_pb2.ModelStreamInferResponse.FromString(text) async for text in call]
        except grpc.aio.AioRpcError as error:
            raise Lost(f"a stream ended early: {error}") from error
        finally:
            chaos.in_flight -= 1
    for (name, tensors, identity, bad), answer in zip(sent, answers, strict=True):
        reply, said = answer.infer_response, answer.error_message
        assert reply.id == identity, (identity, reply)
        if said and REFUSED in said:
            assert name == "slow", said
            chaos.seen["stream: refused"] += 1
        elif bad:
            assert "takes indices" in said, answer
            chaos.seen["stream: poison"] += 1
        else:
            assert not said, said
            chaos.right("stream", name, reply.model_version, tensors, outputs_of(reply))


async def late(chaos):
    """A deadline of gRPC that may be too short."""
    tensors = slow_rows([chaos.seed()])
    async with channel(chaos) as made:
        await made.channel_ready()
        seconds = chaos.chance.choice([0.002, 0.01, 5])
        reply, error = await ask(chaos, made, request("slow", tensors), timeout=seconds)
    if error is None:
        chaos.right("grpc: in time", "slow", reply.model_version, tensors, outputs_of(reply))
        return
    # Told at once that it cannot be met, or missed; who has seconds is refused for want of room.
    assert error.code() is CODE.DEADLINE_EXCEEDED or refused_by_rule(error), error
    if seconds < 5:
        chaos.seen["grpc: late"] += 1
    else:
        assert error.code() is CODE.UNAVAILABLE, error


async def cancelling(chaos):
    """Calls and streams that are taken back while they wait or run."""
    text = request("slow", slow_rows(chaos.seed() + np.arange(4))).SerializeToString()
    async with channel(chaos) as made:
        await made.channel_ready()
        calls = [made.unary_unary(INFER)(text) for _ in range(3)]
        stream = made.stream_stream(STREAM)(iter([text] * 10))
        await asyncio.sleep(chaos.chance.random() * 0.02)
        for call in (*calls, stream):
            call.cancel()
            chaos.seen["grpc: cancelled"] += 1
        for call in calls:  # some may have been answered before
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await call


async def departing(chaos):
    """A connection that is closed over calls in flight."""
    text = request("slow", slow_rows(chaos.seed() + np.arange(2))).SerializeToString()
    async with channel(chaos) as made:
        await made.channel_ready()
        calls = [made.unary_unary(INFER)(text) for _ in range(2)]
        await asyncio.sleep(chaos.chance.random() * 0.01)
    for call in calls:
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await call
    chaos.seen["grpc: left"] += 1


async def mistaken(chaos):
    """What is no request, too large, poison, or for nobody: told so, each with its status."""
    poison = slow_rows([chaos.seed()]) | {"pick": np.array([POISON])}
    nobody = request("nope", tiny_rows([1]))
    async with channel(chaos) as made:
        for kind, message, codes in (
            ("garbage", b"\xff\xff garbage", {CODE.INVALID_ARGUMENT}),
            ("oversize", bytes((LIMIT_MB << 20) + 1), {CODE.RESOURCE_EXHAUSTED}),
            ("poison", request("slow", poison), {CODE.INVALID_ARGUMENT, CODE.INTERNAL}),
            ("nobody", nobody, {CODE.NOT_FOUND, CODE.INVALID_ARGUMENT}),
        ):
            _, error = await ask(chaos, made, message)
            assert error is not None, kind
            if kind == "poison" and refused_by_rule(error):
                continue
            assert error.code() in codes, (kind, error)
            assert error.details(), kind
            chaos.seen[f"grpc: {kind}"] += 1
    await asyncio.sleep(0.05)


GOOD = {unary: 4, streaming: 3}
BAD = {late: 2, cancelling: 2, departing: 1, mistaken: 1}
