import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.bench.regression import judge, read
from mlserve_cli.errors import DataError


def report(p50=1.0, spread=0.02, runs=1000, label="a", cpu="a CPU", **more):
    """A document of `bench --json` with one package at one batch size."""
    figures = {}
    for name, factor in (("p50", 1.0), ("p99", 2.0)):
        figures[f"{name}_ms"] = p50 * factor
        figures[f"{name}_low_ms"] = p50 * factor * (1 - spread)
        figures[f"{name}_high_ms"] = p50 * factor * (1 + spread)
    hardware = {
        "cpu_name": cpu,
        "logical_cpus": 2,
        "physical_cores": 2,
        "cpu_quota": None,
        "isa": ["avx2"],
    }
    return {
        "schema": 1,
        "kind": "engines",
        "hardware": hardware,
        "libraries": {"onnxruntime": "1.32.0"},
        "warnings": [],
        "packages": [
            {
                "label": label,
                "digest": "sha256:1",
                "batches": [{"batch": 1, "runs": runs} | figures],
            }
        ],
    } | more


def test_the_same_figures_are_no_regression():
    found = judge(report(), report())
    assert not found.regressed
    assert [change.verdict for change in found.changes] == ["no difference"] * 2
    assert found.markdown().startswith("### ✅")


def test_a_median_beyond_both_intervals_and_the_least_difference_is_a_regression():
    found = judge(report(), report(1.2))
    assert found.regressed
    assert found.slower[0].ratio == pytest.approx(1.2)
    assert found.slower[0].low > 1
    assert "**slower**" in found.markdown()
    assert "1.20 times" in found.sentence


def test_intervals_that_overlap_are_noise_however_large_the_difference():
    assert not judge(report(spread=0.2), report(1.3, spread=0.2)).regressed


def test_less_than_the_least_difference_counts_for_nothing():
    assert not judge(report(spread=0.001), report(1.04, spread=0.001)).regressed
    assert judge(report(spread=0.001), report(1.04, spread=0.001), least=0.02).regressed


def test_other_hardware_gets_no_verdict_and_is_named():
    found = judge(report(), report(3.0, cpu="another CPU"))
    assert not found.regressed
    assert "cpu_name was a CPU and is another CPU" in found.sentence
    assert "**slower**" not in found.markdown()


def test_what_can_be_measured_no_more_is_a_regression():
    gone = report()
    gone["packages"][0]["batches"] = []
    found = judge(report(), gone)
    assert found.regressed
    assert "gone: a (batch 1)" in found.markdown()


def test_nothing_that_could_be_compared_is_no_success():
    empty = report()
    empty["packages"][0]["batches"][0] |= {
        f"{name}_{end}ms": None for name in ("p50", "p99") for end in ("", "low_", "high_")
    }
    found = judge(empty, report())
    assert not found.changes
    assert found.regressed
    assert "no figure" in found.sentence


def test_a_percentile_of_too_few_runs_is_not_compared():
    found = judge(report(runs=100), report(runs=100))
    assert [change.figure for change in found.changes] == ["p50"]


def test_a_new_build_under_another_name_is_held_to_the_old_one():
    found = judge(report(), report(1.5, label="b"))
    assert found.regressed
    assert found.changes[0].subject == "a"


def test_other_libraries_and_other_packages_are_told():
    new = report(libraries={"onnxruntime": "1.33.0"})
    new["packages"][0]["digest"] = "sha256:2"
    text = judge(report(), new).markdown()
    assert "onnxruntime was 1.32.0 and is 1.33.0" in text
    assert "a is another package than it was" in text


def test_slower_is_only_what_was_slower_twice():
    first, second = judge(report(), report(1.5)), judge(report(), report())
    assert not first.confirmed(second).regressed
    assert first.confirmed(judge(report(), report(1.4))).regressed


def test_doubts_of_both_times_are_named():
    old, new = report(warnings=["it was busy"]), report(warnings=["it is busy"])
    text = judge(old, new).markdown()
    assert "doubtful: it is busy" in text
    assert "doubtful: then, it was busy" in text


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 0.3))
def test_a_change_looked_at_from_the_other_side_is_the_opposite(before, after, spread):
    there = judge(report(before, spread), report(after, spread)).changes[0]
    back = judge(report(after, spread), report(before, spread)).changes[0]
    opposite = {"slower": "faster", "faster": "slower", "no difference": "no difference"}
    # The margin is a ratio both ways, up to the rounding of a division.
    if abs(there.ratio - 1.05) > 1e-9 and abs(back.ratio - 1.05) > 1e-9:
        assert back.verdict == opposite[there.verdict]
    assert there.low <= there.ratio <= there.high


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 2, "kind": "engines"}'])
def test_a_file_that_is_no_report_is_refused(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"old\.json"):
        read(path)


def test_a_report_that_lacks_its_figures_is_refused(tmp_path):
    broken = copy.deepcopy(report())
    del broken["packages"][0]["batches"][0]["p50_low_ms"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(broken))
    with pytest.raises(DataError, match="p50_low_ms"):
        judge(read(path), report())


def test_runs_of_live_servers_are_compared_by_their_load():
    def live(ms):
        figures = report(ms)["packages"][0]["batches"][0]
        closed = {"loop": "closed", "concurrency": 4, "answered": 900, "latency": figures}
        opened = {"loop": "open", "rate_per_s": 50.0, "answered": 10, "latency": figures}
        server = {"url": "http://a", "model": "m", "protocol": "oip-json"}
        return report() | {"kind": "live", "servers": [server | {"runs": [closed, opened]}]}

    found = judge(live(1.0), live(2.0))
    assert [(change.condition, change.figure) for change in found.changes] == [
        ("4 users", "p50"),
        ("4 users", "p99"),
        ("50/s", "p50"),
    ]
    assert found.regressed
