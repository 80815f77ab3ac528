# ruff: noqa: TID253
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import sensitivity as reports
from mlserve_cli.pipeline.sensitivity_page import page
from mlserve_cli.prune import sensitivity
from mlserve_cli.prune.network import Survey
from mlserve_cli.prune.sensitivity import Point, Unit
from tests.unit.prune import architectures as nets


@pytest.fixture(scope="module")
def report(mixed_package):
    return reports.measure(mixed_package, ranked_by="l2", progress=Silent())


def test_each_layer_alone_is_judged_by_the_metric_and_by_its_answers(report):
    assert report.metric.name == "accuracy"
    assert {unit.name for unit in report.units} >= {"inner", "pointwise", "grouped", "left"}
    for unit in report.units:
        assert all(point.value is not None and point.error > 0 for point in unit.points)
        assert all(0 < point.stay < unit.count for point in unit.points)
    errors = [max(point.error for point in unit.points) for unit in report.units]
    assert errors == sorted(errors, reverse=True)


def test_the_report_is_json_and_one_page_that_needs_no_network(report, tmp_path):
    document = json.loads(json.dumps(report.facts()))
    assert document["n"] == 397
    assert document["compared_rows"] == report.compared > 0
    assert {"layer", "kind", "count", "points"} == set(document["layers"][0])
    page(report).write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<svg" in text
    assert f"compared on {report.compared} rows of calibration()" in text
    assert "pointwise" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_a_silenced_layer_errs_as_the_pruned_network_does():
    """The point of one group alone, against really taking it out."""
    network, inputs = nets.build(nets.Residual), nets.example(nets.Residual)
    survey = Survey.of(network, inputs)
    units = sensitivity.measure(survey, [inputs], ratios=(0.5,), progress=Silent())
    (unit,) = [unit for unit in units if unit.name == "blocks.3.one"]
    others = {group.layer: 0.0 for group in survey.groups} | {"blocks.3.one": 0.5}
    pruned = survey.prune(0.5, shares=others)
    assert [cut.layer for cut in pruned.cuts] == ["blocks.3.one"]
    with torch.no_grad():
        whole, found = network(*inputs), pruned.module(*inputs)
    error = float((whole - found).double().norm() / whole.double().norm())
    assert unit.points[0].error == pytest.approx(error, rel=1e-3)


def test_blocks_and_heads_are_measured_too():
    survey = Survey.of(nets.build(nets.Fused), nets.example(nets.Fused))
    units = sensitivity.measure(survey, [survey.example], progress=Silent())
    kinds = {unit.name: unit.kind for unit in units}
    # A layer is its own attention here, so that it is there as both.
    assert sorted(unit.kind for unit in units if unit.name == "layers.0") == ["block", "heads"]
    assert kinds["layers.1.up"] == "channels"


def unit(name, count, errors):
    ratios = (0.25, 0.5, 0.75)
    points = [
        Point(ratio=ratio, stay=int(count * (1 - ratio)), error=error, agreement=1.0)
        for ratio, error in zip(ratios, errors, strict=True)
    ]
    return Unit(name, "channels", count, tuple(points))


@given(
    errors=st.lists(st.lists(st.floats(0.001, 10), min_size=3, max_size=3), min_size=2, max_size=6),
    ratio=st.floats(0.05, 0.85),
)
@settings(max_examples=40)
def test_shares_add_up_to_the_ratio_and_none_is_beyond_the_most(errors, ratio):
    units = [unit(str(index), 64, sorted(each)) for index, each in enumerate(errors)]
    found = sensitivity.shares(units, ratio)
    assert all(0 <= share <= sensitivity.MOST for share in found.values())
    assert sum(found.values()) / len(found) == pytest.approx(ratio, abs=0.02)


def test_the_layer_that_minds_most_loses_least():
    found = sensitivity.shares(
        [unit("stem", 64, (0.5, 2.0, 3.0)), unit("wide", 64, (0.01, 0.05, 0.2))], 0.4
    )
    assert found["stem"] < 0.2 < found["wide"]
