import asyncio
import logging
import socket
import threading

import httpx2
import msgspec
import numpy as np
import pytest
from starlette.testclient import TestClient

from mlserve_cli.runtime import manifest as manifests
from mlserve_cli.runtime import rpc
from mlserve_cli.runtime.app import build_app
from mlserve_cli.runtime.errors import EngineError, PackageError, StartupError, Stopping
from mlserve_cli.runtime.hardware import Hardware, detect
from mlserve_cli.runtime.loading import Abandoned, prepare
from mlserve_cli.runtime.processing.declaration import Processing, PythonProcessing
from mlserve_cli.runtime.repository import find
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.serving import base_url, bind, serve
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing
from mlserve_cli.runtime.tensors import TensorSpec

ROWS = {"x": np.ones((2, 4), np.float32)}
HARDWARE = Hardware(
    cpu_name="CPU", logical_cpus=1, physical_cores=1, cpu_quota=None, memory_bytes=1 << 30,
    numa_nodes=1, isa=(),
)  # fmt: skip


@pytest.fixture
def make(fake_engine, iris_package):
    """A server of one package with a fake engine; `answer` stands in when it serves."""

    def build(answer=None, *, sizing=None, fields=None, **settings):
        package = iris_package(engine=fake_engine(), **(fields or {}))
        fake_engine.made.clear()
        fake_engine(answer)
        chosen = {"iris": sizing or Sizing(threads=1, max_batch=8)}
        options = {"models": str(package.path), "sizing": chosen, **settings}
        return Server(Settings(**options), package.path)

    return build


def during(server, block):
    """Run an async block while the server is up."""

    async def main():
        async with server.lifespan():
            return await block()

    return asyncio.run(main())


async def nothing():
    pass


def test_a_server_is_ready_only_while_its_models_take_traffic(make):
    server = make()
    assert not server.ready()

    async def block():
        return server.ready(), server.registry.ready("iris"), server.metrics.render()

    ready, model_ready, metrics = during(server, block)

    assert ready
    assert model_ready
    assert b"mlserve_ready 1.0" in metrics
    assert b"mlserve_ready 0.0" in server.metrics.render()
    assert not server.ready()


def test_an_engine_that_breaks_while_it_serves_is_seen_by_every_protocol(make):
    aio = pytest.importorskip("grpc.aio")
    broken = threading.Event()

    def answer(engine, tensors):
        if broken.is_set():
            raise RuntimeError("the device is lost")
        return {"scores": tensors["x"] * 2}

    server = make(answer)

    async def verdicts():
        app = httpx2.ASGITransport(app=build_app(server))
        async with httpx2.AsyncClient(transport=app, base_url="http://localhost") as client:
            paths = ("readyz", "v2/health/ready", "v2/models/iris/ready", "ping", "v1/models/iris")
            found = [(await client.get(f"/{path}")).is_success for path in paths]
            found.append((await client.get("/admin/v1/status")).json()["ready"])
        address = f"127.0.0.1:{server.rpc.ports[0]}"
        async with aio.insecure_channel(address) as channel:
            for path in (
                "inference.GRPCInferenceService/ServerReady",
                "grpc.health.v1.Health/Check",
            ):
                reply = await channel.unary_unary(f"/{path}")(b"")
                found.append(reply == b"\x08\x01")  # field 1: true, or SERVING
        return [*found, b"mlserve_ready 1.0" in server.metrics.render()]

    async def block():
        server.rpc = await rpc.start(server, "127.0.0.1", [0])
        try:
            before = await verdicts()
            broken.set()
            with pytest.raises(aio.AioRpcError, match="INTERNAL"):
                await ask(server, aio)
            while_broken = await verdicts()
            broken.clear()
            return before, while_broken, await verdicts()
        finally:
            await server.rpc.stop(None)

    before, while_broken, after = during(server, block)

    assert before == after == [True] * 9
    assert while_broken == [False] * 9


async def ask(server, aio):
    """Ask for a prediction over gRPC, as a client does."""
    schema = pytest.importorskip("mlserve_cli.runtime.rpc.schema")
    asked = schema.message("inference.ModelInferRequest")(
        model_name="iris",
        inputs=[{"name": "x", "datatype": "FP32", "shape": ROWS["x"].shape}],
        raw_input_contents=[ROWS["x"].tobytes()],
    )
    address = f"127.0.0.1:{server.rpc.ports[0]}"
    async with aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        return await call(asked.SerializeToString())


def test_nothing_is_read_or_started_before_a_server_runs(tmp_path):
    before = threading.active_count()
    server = Server(Settings(models="missing"), tmp_path)

    assert threading.active_count() == before
    assert not server.ready()


def test_every_batch_size_is_warmed_up_and_the_golden_rows_are_run(make, fake_engine):
    server = make(sizing=Sizing(threads=1, max_batch=12))

    during(server, nothing)

    (engine,) = fake_engine.made
    assert engine.sizes[:5] == [1, 2, 4, 8, 12]
    assert len(engine.sizes) == 6


def test_engines_are_closed_at_the_end(make, fake_engine):
    during(make(), nothing)

    assert [engine.closed for engine in fake_engine.made] == [True]


def test_the_answers_come_from_the_engine(make):
    server = make()

    async def block():
        return await server.dataplane.infer(server.registry.get("iris"), ROWS)

    np.testing.assert_array_equal(during(server, block)["scores"], ROWS["x"] * 2)


@pytest.mark.parametrize(
    ("sizing", "engines", "threads"),
    [
        (Sizing(threads=1, instances=3), 1, 3),  # they share the weights
        (Sizing(threads=2, instances=3), 3, 3),  # a pool of threads is not shared
        (Sizing(threads=1, inline=True), 1, 0),
    ],
)
def test_instances_share_an_engine_unless_they_need_its_threads(
    make, fake_engine, sizing, engines, threads
):
    server = make(sizing=sizing)

    async def block():
        return [thread.name for thread in threading.enumerate() if thread.name[:5] == "iris-"]

    assert len(during(server, block)) == threads
    assert len(fake_engine.made) == engines


def test_a_model_whose_rows_influence_each_other_is_never_batched(fake_engine, iris_package):
    def shared_scale(engine, tensors):
        with np.errstate(all="ignore"):
            return {"scores": tensors["x"] / tensors["x"].max()}

    package = iris_package(engine=fake_engine(shared_scale))
    assert not package.manifest.batch.invariant
    sizing = {"iris": Sizing(threads=1, max_batch=8)}  # as an older server.toml may say
    server = Server(Settings(models=str(package.path), sizing=sizing), package.path)

    async def block():
        fake_engine.made[-1].sizes.clear()
        model = server.registry.get("iris")
        await asyncio.gather(*(server.dataplane.infer(model, ROWS) for _ in range(3)))

    during(server, block)

    assert fake_engine.made[-1].sizes == [1] * 6


def test_other_answers_than_the_golden_ones_stop_the_start(make, fake_engine):
    server = make(lambda engine, tensors: {"scores": tensors["x"] * 2.5})

    with pytest.raises(StartupError, match=r"does not answer as it did.*'scores' differs by"):
        during(server, nothing)
    assert all(engine.closed for engine in fake_engine.made)
    assert not server.ready()


def test_a_model_that_fails_when_it_is_warmed_up_stops_the_start(make, fake_engine):
    def fail(engine, tensors):
        raise RuntimeError("no such kernel\nstack …")

    with pytest.raises(EngineError, match=r"own golden rows, 1 at a time: no such kernel$"):
        during(make(fail), nothing)
    assert all(engine.closed for engine in fake_engine.made)


def test_a_missing_output_stops_the_start(make):
    server = make(lambda engine, tensors: {"other": tensors["x"]})

    with pytest.raises(StartupError, match="promises an output 'scores'"):
        during(server, nothing)


def test_a_damaged_package_stops_the_start(make):
    server = make()
    (server.root / "serve" / "golden.npz").unlink()

    with pytest.raises(PackageError, match=r"golden\.npz"):
        during(server, nothing)


def test_nothing_to_serve_stops_the_start(tmp_path):
    with pytest.raises(StartupError, match="there is nothing to serve"):
        during(Server(Settings(models="missing"), tmp_path), nothing)


def test_loading_is_abandoned_when_the_server_stops(make, fake_engine):
    server = make()
    abandon = threading.Event()
    abandon.set()

    with pytest.raises(Abandoned):
        prepare(find(server.root)[0], Sizing(threads=1), HARDWARE, abandon=abandon)
    assert fake_engine.made == []


def test_a_sizing_for_a_model_that_is_not_there_is_a_warning(make, caplog):
    server = make()
    server.settings.sizing["iriss"] = Sizing()
    with caplog.at_level(logging.WARNING):
        during(server, nothing)

    assert "sizing for 'iriss', and no model of that name" in caplog.text


def test_a_cpu_without_the_proven_instructions_is_a_warning(make, caplog):
    server = make(fields={"instruction_sets": ("no_such_isa",)})
    with caplog.at_level(logging.WARNING):
        during(server, nothing)

    assert "proven on a CPU with no_such_isa" in caplog.text


def test_one_of_the_alternatives_that_a_package_names_is_enough(make, caplog):
    has = detect().isa[:1]
    alternatives = ("no_such|nor_such", *(f"no_such|{name}" for name in has))
    server = make(fields={"instruction_sets": alternatives})
    with caplog.at_level(logging.WARNING):
        during(server, nothing)

    assert "proven on a CPU with no_such or nor_such, which" in caplog.text


def test_work_that_was_taken_is_answered_before_the_end(make):
    begun, go = threading.Event(), threading.Event()

    def slow(engine, tensors):
        if not engine.closed and tensors["x"][0, 0] == 1 and len(tensors["x"]) == 2:
            begun.set()
            assert go.wait(10)
        return {"scores": tensors["x"] * 2}

    server = make(slow)

    async def main():
        async with server.lifespan():
            model = server.registry.get("iris")
            task = asyncio.create_task(server.dataplane.infer(model, ROWS))
            await asyncio.to_thread(begun.wait, 10)
            asyncio.get_running_loop().call_soon(go.set)
        late = asyncio.create_task(server.dataplane.infer(model, ROWS))
        return await asyncio.gather(task, late, return_exceptions=True)

    answer, late = asyncio.run(main())

    np.testing.assert_array_equal(answer["scores"], ROWS["x"] * 2)
    assert isinstance(late, Stopping)


def test_a_server_can_be_started_again(make):
    server = make()
    rows = {"rows": [[1, 2, 3, 4]]}

    for _ in range(2):
        with TestClient(build_app(server)) as client:
            assert client.get("/readyz").status_code == 200
            assert client.post("/predict/iris", json=rows).status_code == 200
        assert not server.ready()


def test_a_taken_port_is_a_sentence_with_the_address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=f"cannot listen at 127.0.0.1:{port}") as info:
            bind("127.0.0.1", port)
    assert "--port" in info.value.hint


def test_a_port_that_is_taken_while_models_load_is_a_sentence(make, monkeypatch):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        server = make(port=port)

        def find_slowly(path):
            other.listen()
            return find(path)

        monkeypatch.setattr("mlserve_cli.runtime.lifecycle.find", find_slowly)
        monkeypatch.setattr("mlserve_cli.runtime.serving.logs.set_up", lambda *_: None)
        with pytest.raises(StartupError, match=f"127.0.0.1:{port}: Address already in use"):
            serve(build_app(server), server)
    assert not server.ready()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70, "256.1.1.1"])
def test_an_unknown_host_is_a_sentence(host):
    with pytest.raises(StartupError, match="is not known"):
        bind(host, 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:"), ("::", "http://[::1]:")],
)
def test_the_url_is_one_that_a_client_on_this_machine_can_use(host, url):
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with bind(host, 0) as listener:
        assert base_url(listener) == f"{url}{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("side", "spec"),
    [
        ("inputs", TensorSpec("x", "FP32", ("batch", 5))),
        ("inputs", TensorSpec("x", "FP64", ("batch", 4))),
        ("inputs", TensorSpec("z", "FP32", ("batch", 4))),
        ("outputs", TensorSpec("z", "FP32", ("batch", 4))),
        ("outputs", TensorSpec("scores", "FP32", ("batch",))),
        ("outputs", TensorSpec("scores", "INT64", ("batch", 4))),
    ],
)
def test_a_manifest_that_names_another_signature_stops_the_start(make, side, spec):
    server = make()
    resealed(server.root, **{side: (spec,)})
    with pytest.raises((PackageError, StartupError), match=r"manifest|golden predictions"):
        during(server, nothing)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_file_that_the_manifest_does_not_list_is_not_served(make, name):
    server = make()
    files = manifests.read(server.root).files
    resealed(server.root, files={k: v for k, v in files.items() if k != f"serve/{name}"})
    with pytest.raises(PackageError, match=f"does not list 'serve/{name}'"):
        during(server, nothing)


def test_processing_out_of_the_package_is_not_run(make):
    server = make()
    (server.root.parent / "evil.py").write_text("raise SystemExit('it ran')")
    resealed(server.root, processing=Processing(python=PythonProcessing(file="../../evil.py")))
    with pytest.raises(PackageError, match="does not list"):
        during(server, nothing)


def resealed(package, **changes):
    """Change a manifest and its digest."""
    manifest = msgspec.structs.replace(manifests.read(package), **changes)
    (package / manifests.MANIFEST).write_bytes(manifest.sealed().to_json())
