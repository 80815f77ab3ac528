"""Canary shares hold after any number of requests, whatever they are."""

from collections import Counter
from math import log2
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.registry import Registry
from mlserve_cli.runtime.traffic import Traffic, TrafficRule


def traffic_of(rule):
    registry = Registry()
    for version in ("1", "2", "3"):
        manifest = Manifest(name="m", version=version, variant="fp32", inputs=(), outputs=())
        registry.add(SimpleNamespace(manifest=manifest, ready=True, shadows=()))
    traffic = Traffic(registry)
    traffic.set_rule("m", rule)
    return traffic


@settings(max_examples=60, deadline=None)
@given(
    first=st.floats(0, 100, allow_nan=False),
    rest=st.floats(0, 1),
    count=st.integers(1, 800),
)
def test_every_share_is_met_to_a_few_requests_at_every_moment(first, rest, count):
    second = (100 - first) * rest
    rule = TrafficRule(default="1", weights={"2": first, "3": second})
    traffic = traffic_of(rule)

    found = Counter(traffic.route("m").manifest.version for _ in range(count))

    # The discrepancy of this sequence grows with the logarithm of its length.
    allowed = 2 + log2(count + 1)
    for version, share in {"2": first, "3": second, "1": 100 - first - second}.items():
        assert abs(found[version] - count * share / 100) <= allowed


@settings(max_examples=60, deadline=None)
@given(key=st.text(), small=st.floats(0, 100), large=st.floats(0, 100))
def test_a_share_that_grows_takes_no_key_back(key, small, large):
    small, large = sorted((small, large))
    met = [
        traffic_of(TrafficRule(default="1", weights={"2": share}, sticky="field:user"))
        .route("m", key=key)
        .manifest.version
        for share in (small, large)
    ]

    assert met != ["2", "1"]
