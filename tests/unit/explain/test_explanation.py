import json
import re

import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.explain.explanation import explain
from mlserve_cli.explain.nodes import kind_of
from mlserve_cli.explain.page import page
from mlserve_cli.explain.reasons import Origin


def by_name(found):
    return {found.origins[node.name].node: node for node in found.profile.nodes}


def reasons_of(found):
    return {origin.node: origin.why_float for origin in found.origins.values() if origin.why_float}


def test_every_node_that_runs_has_its_time_and_its_kind(int8):
    found = explain(int8, batch=4, runs=5)
    nodes = by_name(found)
    assert nodes["first"].kind == "int8"
    assert nodes["second"].kind == "float"
    assert nodes["first"].microseconds > 0
    shares = [found.profile.share(kind) for kind in ("int8", "float", "conversion", "other")]
    assert sum(shares) == pytest.approx(1.0)
    assert found.batch == 4


def test_each_node_in_float_has_the_reason_that_is_its_own(int8):
    found = explain(int8, runs=2)
    reasons = reasons_of(found)
    assert reasons["second"] == "it was excluded when the package was quantized"
    assert reasons["scores"].startswith("both of its inputs are activations")
    assert "first" not in reasons
    assert set(reasons) == {"second", "scores"}


def test_a_float_package_says_that_it_is_not_quantized(parent):
    found = explain(parent, runs=2)
    assert found.profile.share("int8") == 0
    reasons = reasons_of(found)
    assert set(reasons.values()) == {"the package is not quantized"}
    assert set(reasons) == {"first", "second", "scores", "head"}


def test_the_difference_from_the_parent_grows_where_int8_begins(int8, parent):
    found = explain(int8, parent=parent, runs=2)
    deviations = {item.tensor: item for item in found.deviations}
    assert 1e-4 < deviations["ar"].relative_rms < 0.1
    assert deviations["b"].node == "second"
    assert deviations["y"].decibels > 20
    # In float from the same weights there is no difference but rounding.
    same = explain(parent, parent=parent, runs=2)
    assert max(item.relative_rms for item in same.deviations) == 0


def test_a_page_holds_every_node_and_needs_no_network(int8, parent):
    found = explain(int8, parent=parent, runs=2)
    text = page(found).render()
    for node in found.profile.nodes:
        assert (found.origins[node.name].node or node.name) in text
    assert "it was excluded when the package was quantized" in text
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)


def test_names_from_a_model_cannot_become_markup(int8):
    found = explain(int8, runs=2)
    name = found.profile.nodes[0].name
    found.origins[name] = Origin("<script>alert(1)</script>", "<b>")
    assert "<script>" not in page(found).render()
    assert "<b>" not in page(found).render()


def test_facts_are_one_json_document_with_every_node(int8):
    found = explain(int8, runs=2)
    facts = json.loads(json.dumps(found.facts()))
    assert facts["schema"] == 1
    assert facts["total_us"] == pytest.approx(sum(node["microseconds"] for node in facts["nodes"]))
    assert [node["why_float"] for node in facts["nodes"] if node["kind"] == "float"]


def test_another_package_is_not_taken_for_the_parent(int8, tmp_path, rows):
    import shutil

    import msgspec

    from mlserve_cli.package.package import Package

    shutil.copytree(int8.path, tmp_path / "other")
    other = Package.open(tmp_path / "other")
    renamed = tuple(msgspec.structs.replace(spec, name="z") for spec in other.manifest.inputs)
    other = Package(other.path, msgspec.structs.replace(other.manifest, inputs=renamed))
    with pytest.raises(StepError, match="other inputs"):
        explain(int8, parent=other)


def test_what_another_engine_runs_is_refused(int8):
    import msgspec

    from mlserve_cli.package.package import Package

    foreign = Package(int8.path, msgspec.structs.replace(int8.manifest, engine="torch"))
    with pytest.raises(StepError, match="the engine 'torch'"):
        explain(foreign)


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("QLinearConv", "int8"),
        ("FusedConv", "float"),
        ("QuantizeLinear", "conversion"),
        ("Relu", "other"),
    ],
)
def test_a_type_of_node_has_one_kind(operator, kind):
    assert kind_of(operator) == kind
