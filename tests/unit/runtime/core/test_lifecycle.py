import asyncio
import logging
import shutil
import threading

import numpy as np
import pytest

from mlserve_cli.runtime import lifecycle as lifecycles
from mlserve_cli.runtime.errors import InvalidRequest, NotFound, SettingsError, Stopping
from mlserve_cli.runtime.server import Server
from mlserve_cli.runtime.settings import Settings
from mlserve_cli.runtime.sizing import Sizing

ROWS = {"x": np.ones((2, 4), np.float32)}
SIZING = {"iris": Sizing(threads=1, max_batch=8)}


@pytest.fixture
def put(iris_package, fake_engine, tmp_path):
    """Put a version into the repository; its engine is a fake one."""

    def make(version="1", **fields):
        place = tmp_path / "models" / "iris" / version
        shutil.rmtree(place, ignore_errors=True)
        return iris_package(place, engine=fake_engine(), version=version, **fields)

    return make


@pytest.fixture
def during(fake_engine, tmp_path):
    """Run an async block while a server of the repository is up; `answer` is of its engines."""

    def run(block, *, answer=None, **settings):
        options = {"models": "models", "sizing": SIZING, "state": "", **settings}
        server = Server(Settings(**options), tmp_path)
        fake_engine.made.clear()
        fake_engine(answer)

        async def main():
            async with server.lifespan():
                return await block(server)

        return asyncio.run(main())

    return run


def states(server):
    return {status.version: status.state for status in server.lifecycle.index()}


def reason(server, version="1"):
    (found,) = [each for each in server.lifecycle.index() if each.version == version]
    return found.reason


async def loaded(server, version):
    """Wait until the watch has loaded a version; nobody else does."""
    async with asyncio.timeout(20):
        while version not in server.registry.versions("iris"):  # noqa: ASYNC110 - it says nothing
            await asyncio.sleep(0.01)


async def freed(server):
    """Wait until nothing is left of what was taken out of the traffic."""
    await server.lifecycle._retirement.freed()


def test_a_new_version_takes_the_traffic_once_it_is_loaded(put, during):
    put("1")

    async def block(server):
        put("2")
        before = server.traffic.route("iris").manifest.version
        await server.lifecycle.load("iris", "2")
        return before, server.traffic.route("iris").manifest.version, states(server)

    assert during(block) == ("1", "2", {"1": "READY", "2": "READY"})


def test_a_load_shows_in_the_index_while_it_goes_on(put, during, fake_engine):
    put("1")
    begun, go = threading.Event(), threading.Event()

    def slow(engine, tensors):
        begun.set()
        assert go.wait(10)
        return {"scores": tensors["x"] * 2}

    async def block(server):
        put("2")
        fake_engine(slow)
        task = asyncio.create_task(server.lifecycle.load("iris", "2"))
        await asyncio.to_thread(begun.wait, 10)
        assert states(server) == {"1": "READY", "2": "LOADING"}
        answer = await server.dataplane.infer(server.traffic.route("iris"), ROWS)
        go.set()
        await task
        return answer["scores"], states(server)

    scores, after = during(block)

    np.testing.assert_array_equal(scores, ROWS["x"] * 2)
    assert after == {"1": "READY", "2": "READY"}


def test_a_load_that_fails_keeps_the_old_one_and_says_why(put, during, fake_engine):
    put("1")

    async def block(server):
        old = server.registry.get("iris")
        fake_engine(lambda engine, tensors: {"scores": tensors["x"] * 3})
        with pytest.raises(InvalidRequest, match="load failed for model 'iris': version 1 is at"):
            await server.lifecycle.load("iris", reload=True)
        kept = server.registry.get("iris") is old
        answer = await server.dataplane.infer(old, ROWS)
        return kept, answer["scores"], states(server), reason(server)

    kept, scores, index, why = during(block)

    assert kept
    np.testing.assert_array_equal(scores, ROWS["x"] * 2)
    assert index == {"1": "READY"}
    assert "does not answer as it did when it was packaged" in why
    assert fake_engine.made[-1].closed


def test_a_damaged_package_beside_is_told_in_the_index(put, during):
    put("1")

    async def block(server):
        (put("2").path / "serve" / "model.onnx").write_bytes(b"short")
        with pytest.raises(InvalidRequest, match=r"version 2 is at UNAVAILABLE.*bytes where"):
            await server.lifecycle.load("iris", "2")
        return states(server), reason(server, "2")

    index, why = during(block)

    assert index == {"1": "READY", "2": "UNAVAILABLE"}
    assert "bytes where the manifest says" in why


@pytest.mark.parametrize(("name", "version"), [("nope", None), ("iris", "9")])
def test_a_package_that_is_not_there_cannot_be_loaded(put, during, name, version):
    put("1")

    async def block(server):
        with pytest.raises(NotFound, match=f"failed to load '{name}'.*failed to poll"):
            await server.lifecycle.load(name, version)
        return states(server)

    assert during(block) == {"1": "READY"}


def test_what_did_not_change_is_loaded_again_only_on_demand(put, during, fake_engine):
    put("1")

    async def block(server):
        first = server.registry.get("iris")
        await server.lifecycle.load("iris")
        same = server.registry.get("iris") is first
        await server.lifecycle.load("iris", reload=True)
        other = server.registry.get("iris") is not first
        del first
        await freed(server)
        return same, other, [engine.closed for engine in fake_engine.made]

    assert during(block) == (True, True, [True, False])


def test_a_package_that_changed_is_loaded_again(put, during):
    put("1")

    async def block(server):
        put("1", description="better")
        await server.lifecycle.load("iris")
        return server.registry.get("iris").manifest.description

    assert during(block) == "better"


def test_an_unloaded_version_answers_who_holds_it_and_is_then_freed(put, during, fake_engine):
    for version in ("1", "2"):
        put(version)

    async def block(server):
        held = server.traffic.route("iris")  # as a request does that is still being sent
        await server.lifecycle.unload("iris", "2")
        during_unload = states(server), server.traffic.route("iris").manifest.version
        with pytest.raises(NotFound):
            server.traffic.route("iris", "2")
        answer = await server.dataplane.infer(held, ROWS)
        open_until_then = not any(engine.closed for engine in fake_engine.made)
        del held
        await freed(server)
        closed = [engine.closed for engine in fake_engine.made]
        return during_unload, answer["scores"], open_until_then, closed, states(server)

    (index, version), scores, open_until_then, closed, after = during(block)

    assert index == {"1": "READY", "2": "UNLOADING"}
    assert version == "1"
    np.testing.assert_array_equal(scores, ROWS["x"] * 2)
    assert open_until_then
    assert closed == [False, True]
    assert after == {"1": "READY", "2": "UNAVAILABLE"}


def test_a_whole_model_can_be_unloaded_and_loaded_again(put, during):
    for version in ("1", "2"):
        put(version)

    async def block(server):
        await server.lifecycle.unload("iris")
        none = server.registry.models(), server.ready(), server.metrics.is_ready
        with pytest.raises(NotFound):
            await server.lifecycle.unload("iris")
        await server.lifecycle.load("iris")
        return none, server.registry.versions("iris"), server.ready()

    assert during(block) == (([], False, False), ["1", "2"], True)


def test_no_request_is_lost_when_a_model_is_loaded_again_under_load(put, during):
    put("1")

    async def block(server):
        stop, answered = asyncio.Event(), 0

        async def client():
            nonlocal answered
            while not stop.is_set():
                model = server.traffic.route("iris")
                await asyncio.sleep(0)  # as when a body is still being read
                await server.dataplane.infer(model, ROWS)
                answered += 1

        clients = [asyncio.create_task(client()) for _ in range(4)]
        for _ in range(3):
            await server.lifecycle.load("iris", reload=True)
        stop.set()
        await asyncio.gather(*clients)
        return answered

    assert during(block) > 10


def test_a_load_goes_on_when_the_one_who_asked_hangs_up(put, during, fake_engine):
    put("1")
    begun = threading.Event()

    async def block(server):
        put("2")
        fake_engine(lambda engine, tensors: begun.set() or {"scores": tensors["x"] * 2})
        task = asyncio.create_task(server.lifecycle.load("iris", "2"))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await server.lifecycle.rescan()  # takes its turn behind it
        return states(server)

    assert during(block) == {"1": "READY", "2": "READY"}


def test_a_server_that_stops_abandons_a_load_and_takes_no_other(put, during, fake_engine):
    put("1")
    begun = threading.Event()

    async def block(server):
        def slow(engine, tensors):
            begun.set()
            assert server.lifecycle._abandon.wait(10)
            return {"scores": tensors["x"] * 2}

        fake_engine(slow)
        loads = [asyncio.create_task(server.lifecycle.load("iris", reload=True)) for _ in range(2)]
        await asyncio.to_thread(begun.wait, 10)
        return loads, server

    loads, server = during(block)

    assert all(isinstance(load.exception(), Stopping) for load in loads)
    with pytest.raises(Stopping):
        asyncio.run(server.lifecycle.load("iris"))
    assert all(engine.closed for engine in fake_engine.made)


# Policies, and following the repository.


@pytest.mark.parametrize(
    ("policies", "expected"),
    [({}, ["1", "2", "10"]), ({"iris": 2}, ["2", "10"]), ({"*": ["1", "2"]}, ["1", "2"])],
)
def test_the_policy_says_what_is_loaded_at_the_start(put, during, policies, expected):
    for version in ("1", "2", "10"):
        put(version)

    async def block(server):
        return server.registry.versions("iris"), states(server)

    versions, index = during(block, versions=policies)

    assert versions == expected
    assert set(index) == {"1", "2", "10"}


def test_a_policy_that_is_none_stops_the_start(put, during):
    put("1")
    with pytest.raises(SettingsError, match="versions of 'iris' is 0"):
        during(None, versions={"iris": 0})


def test_versions_set_for_a_model_that_is_not_there_are_a_warning(put, during, caplog):
    put("1")

    async def block(server):
        pass

    with caplog.at_level(logging.WARNING):
        during(block, versions={"irsi": 1, "*": 1})

    assert "there are versions set for 'irsi', and no model of that name" in caplog.text
    assert "'*'" not in caplog.text


def test_under_explicit_control_nothing_is_loaded_that_was_not_asked_for(put, during):
    put("1")

    async def block(server):
        await server.lifecycle.rescan()
        nothing = server.registry.models(), server.ready(), states(server)
        await server.lifecycle.load("iris", "1")
        await server.lifecycle.rescan()
        return nothing, states(server), server.ready()

    nothing, after, ready = during(block, explicit_control=True)

    assert nothing == ([], False, {"1": "UNAVAILABLE"})
    assert after == {"1": "READY"}
    assert ready


def test_a_rescan_loads_what_is_new_and_unloads_what_the_policy_no_longer_wants(put, during):
    put("1")

    async def block(server):
        put("2")
        await server.lifecycle.rescan()
        await freed(server)
        return states(server)

    assert during(block, versions={"iris": 1}) == {"1": "UNAVAILABLE", "2": "READY"}


def test_a_rescan_unloads_what_was_taken_away(put, during):
    for version in ("1", "2"):
        put(version)

    async def block(server):
        shutil.rmtree(server.registry.get("iris", "1").path)
        await server.lifecycle.rescan()
        return server.registry.versions("iris")

    assert during(block) == ["2"]


def test_a_rescan_leaves_what_was_changed_by_hand(put, during):
    for version in ("1", "2"):
        put(version)

    async def block(server):
        await server.lifecycle.load("iris", "1")
        await server.lifecycle.unload("iris", "2")
        await server.lifecycle.rescan()
        return server.registry.versions("iris")

    assert during(block, versions={"iris": 1}) == ["1"]


def test_a_repository_that_cannot_be_seen_unloads_nothing(put, during, tmp_path, caplog):
    put("1")

    async def block(server):
        (tmp_path / "models").rename(tmp_path / "away")
        await server.lifecycle.rescan()
        return server.registry.versions("iris")

    with caplog.at_level(logging.WARNING):
        assert during(block) == ["1"]
    assert "what is loaded stays" in caplog.text


def test_a_package_that_became_damaged_stays_loaded_and_is_told_once(put, during, caplog):
    package = put("1")
    put("2")

    async def block(server):
        (package.path / "manifest.json").write_text("{")
        await server.lifecycle.rescan()
        await server.lifecycle.rescan()
        return server.registry.versions("iris")

    with caplog.at_level(logging.WARNING):
        assert during(block) == ["1", "2"]
    assert caplog.text.count("is not served") == 1


def test_a_version_that_cannot_be_loaded_does_not_stop_a_rescan(put, during, fake_engine, caplog):
    put("1")

    async def block(server):
        for version in ("2", "3"):
            put(version)
        fake_engine.made.clear()
        fake_engine(
            lambda engine, tensors: {"scores": tensors["x"] * (2 + (len(fake_engine.made) == 1))}
        )
        await server.lifecycle.rescan()
        return states(server)

    with caplog.at_level(logging.WARNING):
        found = during(block)

    assert found == {"1": "READY", "2": "UNAVAILABLE", "3": "READY"}
    assert "iris 2 cannot be loaded" in caplog.text


@pytest.mark.parametrize("raised", [TypeError("odd"), SystemExit(3), StopIteration()])
def test_a_version_whose_code_raises_anything_does_not_stop_a_rescan(
    put, during, monkeypatch, caplog, raised
):
    put("1")
    prepare = lifecycles.prepare

    def fail(found, *more, **named):
        if found.manifest.version == "2":
            raise raised
        return prepare(found, *more, **named)

    monkeypatch.setattr(lifecycles, "prepare", fail)

    async def block(server):
        put("2")
        put("3")
        await server.lifecycle.rescan()
        with pytest.raises(InvalidRequest, match=type(raised).__name__):
            await server.lifecycle.load("iris", "2")
        return states(server), reason(server, "2")

    found, why = during(block)

    assert found == {"1": "READY", "2": "UNAVAILABLE", "3": "READY"}
    assert type(raised).__name__ in why
    assert "iris 2 cannot be loaded" in caplog.text


def test_a_watched_repository_is_followed(put, during, fake_engine):
    put("1")
    begun = threading.Event()

    async def block(server):
        put("2")
        fake_engine(lambda engine, tensors: begun.set() or {"scores": tensors["x"] * 2})
        assert await asyncio.to_thread(begun.wait, 20)  # nobody asked for it
        await server.lifecycle.load("iris", "2")  # takes its turn behind it
        return server.traffic.route("iris").manifest.version

    assert during(block, watch_s=0.02) == "2"


def test_a_watch_tries_a_version_that_cannot_be_loaded_once_until_it_is_asked_to_look(
    put, during, fake_engine
):
    put("1")

    async def block(server):
        put("2", tolerance=1e-9)
        fake_engine.made.clear()
        fake_engine(lambda engine, tensors: {"scores": tensors["x"] * 3})
        lifecycle = server.lifecycle
        for _ in range(3):
            await lifecycle._changes.make(lifecycle._follow())  # as the watch does
        by_itself = len(fake_engine.made)
        await lifecycle.rescan()
        return by_itself, len(fake_engine.made), states(server)

    assert during(block) == (1, 2, {"1": "READY", "2": "UNAVAILABLE"})


def test_a_watch_goes_on_after_a_package_whose_code_raises_what_it_likes(
    put, during, monkeypatch, caplog
):
    from mlserve_cli.runtime import lifecycle

    put("1")
    prepare = lifecycle.prepare

    def odd(found, *given, **options):
        if found.manifest.version == "2":
            raise ZeroDivisionError("of the package's own")
        return prepare(found, *given, **options)

    monkeypatch.setattr(lifecycle, "prepare", odd)

    async def block(server):
        put("2")
        put("3")
        await loaded(server, "3")
        return reason(server, "2")

    assert "of the package's own" in during(block, watch_s=0.02)
    assert "Traceback" in caplog.text


def test_a_look_that_fails_does_not_end_the_watch(put, during, monkeypatch, caplog):
    from mlserve_cli.runtime import lifecycle

    put("1")
    look, failed = lifecycle.look, threading.Event()

    def stumbling(*given):
        if not failed.is_set():
            failed.set()
            raise OSError("a stale file handle")
        return look(*given)

    async def block(server):
        monkeypatch.setattr(lifecycle, "look", stumbling)
        put("2")
        await loaded(server, "2")

    during(block, watch_s=0.02)
    assert failed.is_set()
    assert "could not be looked at" in caplog.text


def test_a_version_that_could_not_be_loaded_leaves_the_index_with_its_package(
    put, during, fake_engine
):
    put("1")

    async def block(server):
        package = put("2")
        fake_engine(lambda engine, tensors: {"scores": tensors["x"] * 3})
        await server.lifecycle.rescan()
        before = states(server)
        shutil.rmtree(package.path)
        await server.lifecycle.rescan()
        return before, states(server)

    assert during(block) == ({"1": "READY", "2": "UNAVAILABLE"}, {"1": "READY"})


# Instances.


def test_instances_can_be_changed_and_stay_so_when_it_is_loaded_again(put, during):
    put("1")

    async def block(server):
        found = []
        await server.lifecycle.resize("iris", None, 3)
        found.append(server.registry.get("iris").batcher.workers)
        await server.lifecycle.resize("iris", "1", 3)
        await server.lifecycle.load("iris", reload=True)
        found.append(server.registry.get("iris").batcher.workers)
        answer = await server.dataplane.infer(server.registry.get("iris"), ROWS)
        return found, answer["scores"]

    found, scores = during(block)

    assert found == [3, 3]
    np.testing.assert_array_equal(scores, ROWS["x"] * 2)


def test_an_inline_model_leaves_the_loop_when_it_gets_more_instances(put, during):
    put("1")

    async def block(server):
        await server.lifecycle.resize("iris", "1", 2)
        return server.registry.get("iris").sizing.inline

    assert not during(block, sizing={"iris": Sizing(threads=1, max_batch=8, inline=True)})


@pytest.mark.parametrize("instances", [0, -1, 1000])
def test_an_impossible_number_of_instances_is_refused(put, during, instances):
    put("1")

    async def block(server):
        with pytest.raises(InvalidRequest, match=f"cannot have {instances} instances"):
            await server.lifecycle.resize("iris", "1", instances)

    during(block)


def test_a_version_beside_its_sibling_is_run_as_that_one(put, during):
    put("1")

    async def block(server):
        sibling = server.registry.get("iris").sizing
        put("2")
        await server.lifecycle.load("iris", "2")
        return server.registry.get("iris", "2").sizing is sibling

    assert during(block, sizing={})
