"""What operators do: each operation holds at once, after a restart, and is written down."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlserve_cli.runtime.errors import Conflict, InvalidRequest, NotFound
from mlserve_cli.runtime.journal import Caller, folder_of
from mlserve_cli.runtime.operations import Operations
from mlserve_cli.runtime.registry import Registry
from mlserve_cli.runtime.traffic import Traffic, TrafficRule

CI = Caller("ci", "10.0.0.7")


@dataclass(eq=False)
class Model:
    manifest: SimpleNamespace
    ready: bool = True
    shadows: tuple = ()


@dataclass
class FakeLifecycle:
    """Loads and unloads at once; remembers what it was asked for; fails where it is told to."""

    registry: Registry
    on_disk: tuple
    asked: list = field(default_factory=list)

    async def load(self, name, version=None, *, reload=False):
        self.asked.append(("load", name, version, reload))
        version = version or self.on_disk[-1]
        if version not in self.on_disk:
            raise InvalidRequest(f"failed to load '{name}'")
        self.registry.add(Model(SimpleNamespace(name=name, version=version)))

    async def unload(self, name, version=None):
        self.asked.append(("unload", name, version))
        for each in [version] if version else self.registry.versions(name):
            self.registry.remove(name, each)

    async def resize(self, name, version, count):
        self.asked.append(("resize", name, version, count))

    async def rescan(self):
        self.asked.append(("rescan",))


class FakeServer:
    def __init__(self, root: Path, versions=("1",), on_disk=("1", "2", "3")) -> None:
        self.root = root
        self.settings = SimpleNamespace(state=".mlserve")
        self.registry = Registry()
        self.traffic = Traffic(self.registry)
        self.lifecycle = FakeLifecycle(self.registry, on_disk)
        for version in versions:
            self.registry.add(Model(SimpleNamespace(name="iris", version=version)))
        self.operations = Operations(self)

    def answers(self, count=100):
        """The versions that answer so many requests: version → how many."""
        found: dict[str, int] = {}
        for _ in range(count):
            version = self.traffic.route("iris").manifest.version
            found[version] = found.get(version, 0) + 1
        return found


@pytest.fixture
def run(tmp_path):
    """Run a story against a server of its own; another one on the same folder is a restart."""

    def go(story, **options):
        async def main():
            server = FakeServer(tmp_path, **options)
            await server.operations.restore()
            try:
                return await story(server)
            finally:
                server.operations.close()

        return asyncio.run(main())

    return go


def audited(folder):
    lines = (folder / ".mlserve" / "audit.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_canary_takes_its_share_and_promoting_it_takes_all(run):
    async def story(server):
        operations = server.operations
        assert await operations.load("iris", "2", hold=True, caller=CI)
        assert server.answers() == {"1": 100}
        await operations.canary("iris", "2", 10, caller=CI)
        assert server.answers() == {"1": 90, "2": 10}
        await operations.promote("iris", caller=CI)
        assert server.answers() == {"2": 100}
        await operations.rollback("iris", caller=CI)
        assert server.answers() == {"1": 100}

    run(story)


def test_rolling_back_ends_a_canary_and_only_then_goes_back_in_time(run):
    async def story(server):
        operations = server.operations
        await operations.promote("iris", "2", caller=CI)
        await operations.canary("iris", "3", 50, caller=CI)

        await operations.rollback("iris", caller=CI)
        assert server.answers() == {"2": 100}
        await operations.rollback("iris", caller=CI)
        assert server.answers() == {"1": 100}
        with pytest.raises(Conflict, match="no earlier version"):
            await operations.rollback("iris", caller=CI)

    async def with_three(server):
        await server.operations.promote("iris", "1", caller=CI)
        server.operations.state.earlier.clear()
        await story(server)

    run(with_three, versions=("1", "2", "3"))


def test_rules_hold_after_a_restart_and_the_versions_they_name_are_loaded(run):
    async def before(server):
        await server.operations.load("iris", "2", hold=True, caller=CI)
        await server.operations.canary("iris", "2", 25, sticky="header:X-User", caller=CI)
        await server.operations.label("iris", "stable", "1", caller=CI)
        return server.traffic.rule("iris")

    async def after(server):
        assert server.answers(4) in ({"1": 3, "2": 1}, {"1": 4})
        assert ("load", "iris", "2", False) in server.lifecycle.asked
        return server.traffic.rule("iris")

    assert run(before) == run(after)


def test_what_was_unloaded_stays_unloaded_after_a_restart(run):
    async def before(server):
        await server.operations.unload("iris", "1", caller=CI)

    async def after(server):
        return server.registry.versions("iris")

    run(before, versions=("1", "2"))

    assert run(after, versions=("1", "2")) == ["2"]


def test_a_version_that_went_from_the_disk_does_not_keep_the_server_from_starting(run, caplog):
    async def before(server):
        await server.operations.load("iris", "2", caller=CI)
        await server.operations.promote("iris", "2", caller=CI)

    async def after(server):
        assert server.answers() == {"1": 100}
        assert "does not hold" in caplog.text
        server.lifecycle.on_disk = ("1", "2")
        await server.operations.load("iris", "2", caller=CI)
        assert server.traffic.rule("iris").default == "2"  # it came back, and its rule with it

    run(before)
    run(after, on_disk=("1",))


def test_loading_a_newer_version_can_be_rolled_back(run):
    async def story(server):
        await server.operations.load("iris", "2", caller=CI)
        assert server.answers() == {"2": 100}
        server.registry.remove("iris", "1")  # as a policy of one version does
        await server.operations.rollback("iris", caller=CI)
        assert server.answers() == {"1": 100}

    run(story)


def test_every_operation_is_audited_with_who_before_and_after(run, tmp_path):
    async def story(server):
        await server.operations.load("iris", "2", hold=True, caller=CI)
        await server.operations.promote("iris", "2", caller=Caller("anna"))

    run(story)

    load, promote = audited(tmp_path)
    assert (load["who"], load["address"], load["action"]) == ("ci", "10.0.0.7", "load")
    assert load["before"]["versions"] == ["1"]
    assert load["after"]["versions"] == ["1", "2"]
    assert (promote["who"], promote["outcome"]) == ("anna", "done")
    assert promote["before"]["rule"]["default"] == "1"
    assert promote["after"]["rule"]["default"] == "2"


def test_the_audit_log_names_the_version_that_went_without_saying(run, tmp_path):
    async def story(server):
        await server.operations.load("iris", "2", hold=True, caller=CI)
        await server.operations.canary("iris", "2", 10, caller=CI)
        await server.operations.promote("iris", caller=CI)
        await server.operations.rollback("iris", caller=CI)

    run(story)

    assert [(entry["action"], entry["version"]) for entry in audited(tmp_path)[2:]] == [
        ("promote", "2"),
        ("rollback", "1"),
    ]


def test_what_failed_is_audited_with_its_reason_and_changes_nothing(run, tmp_path):
    async def story(server):
        with pytest.raises(InvalidRequest):
            await server.operations.load("iris", "9", caller=CI)
        with pytest.raises(NotFound):
            await server.operations.promote("iris", "9", caller=CI)
        assert server.answers() == {"1": 100}

    run(story)

    assert [entry["outcome"] for entry in audited(tmp_path)] == [
        "failed to load 'iris'",
        "Request for unknown model: 'iris' version 9 is not found",
    ]


def test_a_version_that_a_rule_names_is_not_unloaded(run):
    async def story(server):
        await server.operations.canary("iris", "2", 5, caller=CI)
        for version in ("1", "2"):
            with pytest.raises(Conflict, match="named by its traffic rule"):
                await server.operations.unload("iris", version, caller=CI)
        return server.registry.versions("iris")

    assert run(story, versions=("1", "2")) == ["1", "2"]


def test_the_last_version_is_unloaded_though_a_rule_names_it(run):
    async def story(server):
        await server.operations.promote("iris", "1", caller=CI)
        await server.operations.unload("iris", "1", caller=CI)
        assert server.registry.versions("iris") == []
        await server.operations.load("iris", "1", caller=CI)
        return server.answers()

    assert run(story) == {"1": 100}


def test_a_canary_of_the_newest_leaves_the_rest_to_the_one_before(run):
    async def story(server):
        await server.operations.canary("iris", "2", 10, caller=CI)
        return server.answers()

    assert run(story, versions=("1", "2")) == {"1": 90, "2": 10}


def test_a_version_that_answers_already_can_still_become_a_canary(run):
    async def story(server):
        await server.operations.load("iris", "2", caller=CI)
        await server.operations.load("iris", "2", hold=True, caller=CI)
        await server.operations.canary("iris", "2", 10, caller=CI)
        return server.answers()

    assert run(story) == {"1": 90, "2": 10}


def test_a_canary_of_the_only_version_is_refused(run):
    async def story(server):
        with pytest.raises(Conflict, match="answers all requests already"):
            await server.operations.canary("iris", "1", 10, caller=CI)

    run(story)


def test_a_canary_of_nought_percent_ends_it(run):
    async def story(server):
        await server.operations.canary("iris", "2", 10, caller=CI)
        await server.operations.canary("iris", "2", 0, caller=CI)
        return server.answers()

    assert run(story, versions=("1", "2")) == {"1": 100}


def test_promoting_without_a_version_needs_exactly_one_candidate(run):
    async def story(server):
        operations = server.operations
        with pytest.raises(Conflict, match="has no canary"):
            await operations.promote("iris", caller=CI)
        both = TrafficRule(default="1", weights={"2": 10.0, "3": 10.0})
        await operations.set_rule("iris", both, caller=CI)
        with pytest.raises(InvalidRequest, match="2 candidates: 2, 3"):
            await operations.promote("iris", caller=CI)

    run(story, versions=("1", "2", "3"))


def test_labels_come_and_go(run):
    async def story(server):
        operations = server.operations
        await operations.label("iris", "stable", "1", caller=CI)
        assert server.traffic.route("iris", label="stable").manifest.version == "1"
        await operations.label("iris", "stable", None, caller=CI)
        with pytest.raises(NotFound):
            await operations.label("iris", "stable", None, caller=CI)
        with pytest.raises(NotFound):
            await operations.label("iris", "stable", "9", caller=CI)

    run(story, versions=("1", "2"))


def test_a_rule_can_be_taken_away(run):
    async def story(server):
        await server.operations.promote("iris", "1", caller=CI)
        await server.operations.set_rule("iris", None, caller=CI)
        assert server.traffic.rule("iris") is None
        assert server.operations.state.rules == {}
        return server.answers()

    assert run(story, versions=("1", "2")) == {"2": 100}


def test_instances_are_set_again_after_a_restart(run):
    async def before(server):
        await server.operations.resize("iris", None, 3, caller=CI)

    async def after(server):
        return server.lifecycle.asked

    run(before)

    assert ("resize", "iris", "1", 3) in run(after)


def test_without_a_folder_an_operation_holds_and_says_that_it_is_not_kept(tmp_path):
    async def story():
        server = FakeServer(tmp_path, versions=("1", "2"))
        server.settings.state = ""
        server.operations = Operations(server)
        await server.operations.restore()
        kept = await server.operations.promote("iris", "1", caller=CI)
        server.operations.close()
        return kept, server.answers()

    assert asyncio.run(story()) == (False, {"1": 100})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_into_a_package(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")

    assert folder_of(".mlserve", tmp_path) is None
    assert folder_of("state", tmp_path / "server") == tmp_path / "server" / "state"


def test_operations_at_once_are_all_kept_in_order(run, tmp_path):
    async def before(server):
        shares = [float(share) for share in range(1, 21)]
        await asyncio.gather(
            *(server.operations.canary("iris", "2", share, caller=CI) for share in shares)
        )

    async def after(server):
        return server.traffic.rule("iris").weights

    run(before, versions=("1", "2"))

    entries = audited(tmp_path)
    assert [entry["after"]["rule"]["weights"]["2"] for entry in entries] == list(range(1, 21))
    assert run(after, versions=("1", "2")) == {"2": 20.0}


@pytest.mark.parametrize("rule", [TrafficRule(shadow="2"), TrafficRule(weights={"1": 10})])
def test_rolling_back_a_rule_without_a_default_ends_it_and_keeps_what_came_before(run, rule):
    async def story(server):
        await server.operations.promote("iris", "1", caller=CI)
        await server.operations.promote("iris", "2", caller=CI)
        await server.operations.set_rule("iris", rule, caller=CI)

        await server.operations.rollback("iris", caller=CI)
        assert server.traffic.rule("iris") == TrafficRule()
        await server.operations.rollback("iris", caller=CI)
        assert server.answers() == {"1": 100}

    run(story, versions=("1", "2"))


def test_what_is_changed_while_a_rollback_loads_a_version_is_not_lost(run):
    async def story(server):
        operations = server.operations
        await operations.load("iris", "2", caller=CI)
        server.registry.remove("iris", "1")
        load = server.lifecycle.load

        async def slow(name, version=None, **options):
            await operations.label("iris", "stable", "2", caller=CI)
            await load(name, version, **options)

        server.lifecycle.load = slow
        await operations.rollback("iris", caller=CI)
        return server.traffic.rule("iris")

    assert run(story) == TrafficRule(default="1", labels={"stable": "2"})
