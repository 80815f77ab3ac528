"""Any two packages that answer alike are compared as a variant is with its parent."""

import numpy as np
import pytest

from mlserve_cli.cli import verdict
from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline.comparison import compare
from mlserve_cli.pipeline.variant import Gate
from tests.conftest import write_linear


def run(first, second, *, data=None, target=None, limit_rows=10, **gate):
    return compare(
        first.path,
        second.path,
        data=data,
        target=target,
        gate=Gate(**gate),
        limit_rows=limit_rows,
        progress=Silent(),
    )


def test_what_was_lost_is_paired_and_every_other_decision_counted(
    first, second, iris, flowers, timed
):
    found = run(first, second, data=flowers)

    before = first.engine().run({"x": iris[0]})["scores"].argmax(axis=1)
    after = second.engine().run({"x": iris[0]})["scores"].argmax(axis=1)
    assert found.disagreement.different == np.count_nonzero(before != after) > 50
    assert found.disagreement.n == 150
    lost = np.mean(before == iris[1]) - np.mean(after == iris[1])
    assert found.verdict.drop.value == pytest.approx(100 * lost)
    assert found.verdict.drop.p_value < 1e-9
    assert "loses" in found.verdict.refusals[0]


def test_rows_that_differ_are_shown_with_both_answers_up_to_the_limit(
    first, second, iris, flowers, timed
):
    rows = run(first, second, data=flowers, limit_rows=3).disagreement.rows

    assert [row.row for row in rows] == [51, 52, 53]  # the first of versicolor
    assert {row.target for row in rows} == {"versicolor"}
    assert {row.first["label"] for row in rows} == {"versicolor"}
    assert {row.second["label"] for row in rows} == {"virginica"}
    scores = first.engine().run({"x": iris[0][50:51]})["scores"]
    assert rows[0].first["score"] == pytest.approx(scores.max(), abs=1e-5)


def test_packages_that_decide_alike_pass_and_the_interval_says_how_sure_that_is(
    first, same, flowers, timed
):
    found = run(first, same, data=flowers)

    assert found.verdict.refusals == ()
    assert found.disagreement.different == 0
    assert found.disagreement.rows == ()
    assert "no decision of 150 differs (95 %: fewer than 2.50% do)" in found.disagreement.sentence()


def test_slower_than_the_other_beyond_noise_does_not_pass(first, same, flowers, timed):
    timed[8] = 1.5

    found = run(first, same, data=flowers)

    assert found.verdict.refusals == (
        "slower than 'first': 1.50× slower (95 % 1.50 … 1.50) at batch 8",
    )
    assert run(first, same, data=flowers, allow_slower=True).verdict.refusals == ()


def test_rows_without_targets_are_judged_by_agreement_with_the_first(
    first, second, unlabelled, timed
):
    found = run(first, second, data=unlabelled)

    assert found.verdict.before.metric.name == "agreement"
    assert found.verdict.before.value == 100.0
    share = found.disagreement.share
    assert found.verdict.drop.value == pytest.approx(100 * share)
    assert found.disagreement.rows[0].target is None


def test_without_any_data_the_golden_rows_are_taken_and_named(first, second, timed):
    found = run(first, second)

    assert found.source.startswith("the 32 golden rows of first")
    assert found.verdict.after.n == 32


def test_the_definition_of_the_second_serves_where_the_first_has_none(
    first, second, flowers, timed, tmp_path
):
    definition = f"""
import numpy
def evaluation():
    with numpy.load({flowers!r}) as rows:
        yield rows["x"], rows["target"]
"""
    (second.path / "source").mkdir()
    (second.path / "source" / "definition.py").write_text(definition)

    found = run(first, second)

    assert found.source == "evaluation() of the definition of second"
    assert found.verdict.after.n == 150


def test_how_they_are_related_is_told_in_both_directions(first, second, same, flowers, timed):
    assert run(first, second, data=flowers).kinship == "'second' was made from 'first': exchange"
    assert run(second, first, data=flowers).kinship == "'second' was made from 'first': exchange"
    siblings = run(same, second, data=flowers).kinship
    assert siblings == "'same' and 'second' come from one package"
    twins = run(first, first, data=flowers).kinship
    assert twins == "'first' and 'first (2)' are the same package"


def test_two_exports_that_read_alike_are_not_called_related(
    first, iris_package, tmp_path, flowers, timed
):
    other = iris_package(tmp_path / "other", version="7", processing=first.manifest.processing)

    found = run(first, other, data=flowers)

    assert first.manifest.lineage == other.manifest.lineage
    assert found.kinship == "nothing says that 'first' and 'other' are related"


def test_other_labels_are_a_sentence_and_nothing_is_measured(first, iris_package, tmp_path, timed):
    other = iris_package(tmp_path / "other", labels=("setosa", "virginica", "versicolor"))

    with pytest.raises(StepError, match="class 1 is 'versicolor' in 'first' and 'virginica'"):
        run(first, other)


def test_values_differ_where_they_are_a_hundredth_of_the_range_apart(tmp_path, timed):
    from mlserve_cli.package.draft import create
    from mlserve_cli.package.finish import finish
    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime.manifest import Manifest

    rows = np.linspace(0, 1, 101, dtype=np.float32).reshape(-1, 1)

    def package(name, slope):
        from onnx import TensorProto, helper, numpy_helper, save

        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "slope"], ["value"])],
            "line",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
            [helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch", 1])],
            [numpy_helper.from_array(np.float32(slope), "slope")],
        )
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        with create(tmp_path / name) as draft:
            save(model, draft.serve / "model.onnx")
            manifest = Manifest(name="line", version="1", variant="fp32", inputs=(), outputs=())
            sealed = finish(draft, manifest, [{"x": rows}])
        return Package(tmp_path / name, sealed)

    np.savez(tmp_path / "rows.npz", x=rows, target=rows[:, 0])
    found = run(package("a", 1.0), package("b", 1.02), data=str(tmp_path / "rows.npz"))

    # 0.02 x > 0.01 for x > 0.5: the rows from 0.51 on
    assert found.disagreement.different == 50
    assert found.disagreement.rows[0].row == 52


def test_outputs_that_decide_nothing_are_no_disagreement(first, iris):
    from mlserve_cli.evaluate.disagreement import Decided, Differences

    watch = Decided(first)
    watch.decider = None
    differences = Differences(watch, first, 5)
    differences({"x": iris[0]}, {"scores": np.ones((150, 3), np.float32)}, iris[1])

    assert differences.found() is None


def test_a_linear_model_of_other_inputs_is_named_with_both_shapes(first, tmp_path, timed):
    from mlserve_cli.export.export import export

    write_linear(tmp_path / "wide.onnx", np.ones((5, 3)), np.zeros(3))
    export(str(tmp_path / "wide.onnx"), tmp_path / "wide")

    with pytest.raises(StepError, match="different signatures: input 'x' is FP32") as refused:
        compare(
            first.path,
            tmp_path / "wide",
            data=None,
            target=None,
            gate=Gate(),
            progress=Silent(),
        )
    assert "(batch, 4) in 'first' and FP32 (batch, 5) in 'wide'" in refused.value.message


def test_a_gate_with_the_labels_of_other_rows_says_so_and_proves_nothing(
    first, same, iris, tmp_path, timed
):
    place = tmp_path / "shuffled.npz"
    np.savez(place, x=iris[0], target=np.random.default_rng(3).permutation(iris[1]))
    found = run(first, same, data=str(place))
    said = " ".join(verdict.sentences(found.verdict))
    assert "always answering 'class" in said
    assert "the labels or their order may be wrong" in said
    assert "proven" not in said
    assert "the labels or their order may be wrong" in verdict.document(found.verdict)["proof"]
