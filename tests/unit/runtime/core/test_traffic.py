from collections import Counter
from types import SimpleNamespace

import pytest

from mlserve_cli.runtime.errors import InvalidRequest, NotFound
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.registry import Registry
from mlserve_cli.runtime.traffic import Traffic, TrafficRule


def loaded(version, name="dbl"):
    manifest = Manifest(name=name, version=version, variant="fp32", inputs=(), outputs=())
    return SimpleNamespace(manifest=manifest, ready=True, shadows=())


@pytest.fixture
def registry():
    found = Registry()
    for version in ("1", "2", "3"):
        found.add(loaded(version))
    found.add(loaded("1", "other"))
    return found


@pytest.fixture
def traffic(registry):
    return Traffic(registry)


def version(traffic, **asked):
    return traffic.route("dbl", **asked).manifest.version


def shares(traffic, count=1000, **asked):
    return Counter(version(traffic, **asked) for _ in range(count))


def test_without_a_rule_the_newest_version_answers(traffic):
    assert traffic.rule("dbl") is None
    assert version(traffic) == "3"
    assert version(traffic, version="1") == "1"


def test_a_default_answers_who_names_no_version(traffic):
    traffic.set_rule("dbl", TrafficRule(default="2"))

    assert version(traffic) == "2"
    assert version(traffic, version="3") == "3"
    assert traffic.route("other").manifest.version == "1"


def test_a_rule_can_be_taken_away(traffic):
    traffic.set_rule("dbl", TrafficRule(default="2"))
    traffic.set_rule("dbl", None)

    assert traffic.rule("dbl") is None
    assert version(traffic) == "3"


def test_a_label_means_a_version(traffic):
    traffic.set_rule("dbl", TrafficRule(labels={"stable": "1", "canary": "2"}))

    assert version(traffic, label="stable") == "1"
    assert version(traffic, label="canary") == "2"
    assert version(traffic) == "3"


def test_an_unknown_label_is_told_with_those_there_are(traffic):
    with pytest.raises(NotFound, match="label 'stable' is not found") as none:
        version(traffic, label="stable")
    traffic.set_rule("dbl", TrafficRule(labels={"canary": "2"}))
    with pytest.raises(NotFound) as one:
        version(traffic, label="stable")
    with pytest.raises(NotFound, match="'nope' is not found"):
        traffic.route("nope", label="stable")

    assert none.value.hint == "its labels are none"
    assert one.value.hint == "its labels are canary"


def test_shares_hold_within_a_few_requests(traffic):
    traffic.set_rule("dbl", TrafficRule(default="1", weights={"2": 10, "3": 25}))

    found = shares(traffic)

    assert abs(found["2"] - 100) <= 5
    assert abs(found["3"] - 250) <= 5
    assert found.total() == 1000


def test_shares_of_a_hundred_leave_nothing_to_the_default(traffic):
    traffic.set_rule("dbl", TrafficRule(default="1", weights={"2": 30, "3": 70}))

    assert set(shares(traffic)) == {"2", "3"}


def test_a_sticky_key_always_meets_the_same_version(traffic, registry):
    rule = TrafficRule(default="1", weights={"2": 50}, sticky="header:X-User")
    traffic.set_rule("dbl", rule)
    first = [version(traffic, key=f"user-{n}") for n in range(200)]
    again = Traffic(registry)  # as after a restart, or on another machine
    again.set_rule("dbl", rule)

    assert first == [version(again, key=f"user-{n}") for n in range(200)]
    assert 60 < first.count("2") < 140


def test_a_growing_share_only_takes_keys_over(traffic):
    reached = set()
    for share in (5, 20, 60, 100):
        traffic.set_rule("dbl", TrafficRule(default="1", weights={"2": share}, sticky="field:u"))
        now = {n for n in range(300) if version(traffic, key=str(n)) == "2"}
        assert reached <= now
        reached = now

    assert len(reached) == 300


def test_a_key_that_is_a_canary_of_one_model_is_not_one_of_all(registry):
    registry.add(loaded("2", "other"))
    traffic = Traffic(registry)
    for name in ("dbl", "other"):
        traffic.set_rule(name, TrafficRule(default="1", weights={"2": 50}, sticky="field:u"))

    met = [
        (version(traffic, key=str(n)), traffic.route("other", key=str(n)).manifest.version)
        for n in range(200)
    ]

    assert 60 < sum(one == two for one, two in met) < 140


def test_who_has_no_key_is_dealt_by_chance(traffic):
    traffic.set_rule("dbl", TrafficRule(default="1", weights={"2": 50}, sticky="header:X-User"))

    assert abs(shares(traffic, 100)["2"] - 50) <= 3


def test_a_version_that_is_gone_leaves_its_share_to_the_default(traffic, registry):
    traffic.set_rule("dbl", TrafficRule(default="1", weights={"2": 50}))
    registry.remove("dbl", "2")
    assert set(shares(traffic, 50)) == {"1"}

    registry.remove("dbl", "1")
    assert version(traffic) == "3"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (TrafficRule(default="9"), "names version '9', which is not loaded"),
        (TrafficRule(labels={"stable": "9"}), "names version '9'"),
        (TrafficRule(weights={"9": 5}), "names version '9'"),
        (TrafficRule(shadow="9"), "names version '9'"),
        (TrafficRule(weights={"1": 60, "2": 50}), "are 110 % together"),
        (TrafficRule(weights={"1": -1}), "is -1 %"),
        (TrafficRule(weights={"1": float("nan")}), "is nan %"),
        (TrafficRule(shadow="1", shadow_share=101), "is 101 %"),
        (TrafficRule(sticky="cookie:x"), "cannot stick to 'cookie:x'"),
        (TrafficRule(sticky="header:"), "cannot stick to 'header:'"),
        (TrafficRule(sticky="header:a b"), "cannot stick to 'header:a b'"),
        (TrafficRule(sticky="header:\u4e2d"), "cannot stick to 'header:\u4e2d'"),
        (TrafficRule(labels={" ": "1"}), "label of model 'dbl' is empty"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_and_the_old_one_stays(traffic, rule, message):
    traffic.set_rule("dbl", TrafficRule(default="2"))

    with pytest.raises(InvalidRequest, match=message):
        traffic.set_rule("dbl", rule)

    assert traffic.rule("dbl") == TrafficRule(default="2")
    assert version(traffic) == "2"


def test_a_rule_for_an_unknown_model_is_refused(traffic):
    with pytest.raises(NotFound, match="'nope' is not found"):
        traffic.set_rule("nope", TrafficRule())


def test_copies_go_from_every_version_to_the_shadow_but_not_from_itself(traffic, registry):
    traffic.set_rule("dbl", TrafficRule(default="1", shadow="3", shadow_share=50))

    (shadow,) = registry.get("dbl", "1").shadows
    assert shadow.target is registry.get("dbl", "3")
    assert registry.get("dbl", "2").shadows == (shadow,)
    assert registry.get("dbl", "3").shadows == ()
    assert registry.get("other").shadows == ()

    traffic.set_rule("dbl", TrafficRule(default="1"))
    assert all(model.shadows == () for model in registry.models())


def test_a_shadow_follows_versions_that_come_and_go(traffic, registry):
    traffic.set_rule("dbl", TrafficRule(shadow="2"))
    registry.remove("dbl", "2")
    traffic.refresh("dbl")
    assert registry.get("dbl", "1").shadows == ()

    again = loaded("2")
    registry.add(again)
    traffic.refresh("dbl")
    assert registry.get("dbl", "1").shadows[0].target is again


@pytest.mark.parametrize(
    ("rule", "version", "arm"),
    [
        (None, "2", "default"),
        (TrafficRule(default="1"), "1", "default"),
        (TrafficRule(default="1", weights={"2": 0.0}), "1", "default"),
        (TrafficRule(default="1", weights={"2": 10.0}), "1", "default"),
        (TrafficRule(default="1", weights={"2": 10.0}), "2", "canary"),
        (TrafficRule(default="1", weights={"2": 50.0}, sticky="header:X-User"), "2", "ab"),
        (TrafficRule(default="1", weights={"2": 50.0}, sticky="header:X-User"), "1", "ab"),
    ],
)
def test_a_request_belongs_to_the_part_of_the_traffic_that_the_rule_gave_it(
    traffic, rule, version, arm
):
    traffic.set_rule("dbl", rule)

    assert traffic.arm("dbl", version, False) == arm
    assert traffic.arm("dbl", version, True) == "named"
