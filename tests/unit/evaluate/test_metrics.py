import numpy as np
import pytest

from mlserve_cli.errors import DataError, DefinitionError, StepError
from mlserve_cli.evaluate import metrics
from mlserve_cli.evaluate.cases import Decisions
from mlserve_cli.evaluate.evaluation import evaluate
from mlserve_cli.package.definition import Metric, to_array
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    Processing,
    TextInput,
    TokensOutput,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import TensorSpec

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]], dtype=np.float32)


def _classes(tensor="scores"):
    return Processing(output=ClassesOutput(tensor=tensor))


def test_the_best_score_is_compared_with_the_class(make_package):
    found = metrics.accuracy({"scores": SCORES}, np.array([1, 0, 0]), make_package().manifest)
    assert found.tolist() == [1.0, 1.0, 0.0]


def test_text_targets_are_mapped_by_the_labels(make_package):
    manifest = make_package(labels=("cat", "dog")).manifest
    found = metrics.accuracy({"scores": SCORES}, to_array(["dog", "dog", "cat"]), manifest)
    assert found.tolist() == [1.0, 0.0, 0.0]


def test_text_targets_without_labels_are_refused(make_package):
    with pytest.raises(DataError, match="no labels"):
        metrics.accuracy({"scores": SCORES}, to_array(["a", "b", "c"]), make_package().manifest)


def test_a_label_output_is_compared_as_it_is(make_package):
    outputs = {"label": np.array([7, 3, 3]), "probabilities": SCORES}
    manifest = make_package(processing=_classes("probabilities"), labels=("3", "7")).manifest
    assert metrics.accuracy(outputs, np.array([7, 3, 7]), manifest).tolist() == [1.0, 1.0, 0.0]


def test_a_text_label_output_is_compared_with_text(make_package):
    outputs = {"label": to_array(["dog", "cat", "cat"]), "probabilities": SCORES}
    found = metrics.accuracy(outputs, to_array(["dog", "dog", "cat"]), make_package().manifest)
    assert found.tolist() == [1.0, 0.0, 1.0]


def test_whole_numbers_that_came_as_floats_are_classes(make_package):
    manifest = make_package(processing=_classes()).manifest
    found = metrics.accuracy({"scores": SCORES}, np.array([[1.0], [0.0], [0.0]]), manifest)
    assert found.tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(DataError, match="fractions"):
        metrics.accuracy({"scores": SCORES}, np.array([0.5, 0.0, 1.0]), manifest)


def test_several_outputs_that_say_nothing_ask_for_a_declaration(make_package):
    outputs = {"a": SCORES, "b": SCORES}
    with pytest.raises(StepError, match="outputs a, b") as caught:
        metrics.accuracy(outputs, np.array([0, 1, 0]), make_package().manifest)
    assert "metric(outputs, targets)" in caught.value.hint


def test_one_hot_targets_are_refused_with_what_is_allowed(make_package):
    with pytest.raises(DataError, match=r"targets have the shape \(3, 2\)"):
        metrics.accuracy({"scores": SCORES}, np.eye(3, 2), make_package().manifest)


def test_equal_decisions_agree_whatever_the_scores(make_package):
    manifest = make_package().manifest
    decided = metrics.decisions({"s": SCORES[::-1] * 9}, manifest)
    found = metrics.accuracy({"s": SCORES}, decided, manifest)
    assert found.tolist() == [1.0, 1.0, 1.0]


def test_errors_are_absolute_and_averaged_over_a_row(make_package):
    manifest = make_package().manifest
    outputs = {"y": np.array([[1.0, 3.0], [2.0, 2.0]])}
    targets = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert metrics.mae(outputs, targets, manifest).tolist() == [1.0, 1.0]
    assert metrics.rmse(outputs, targets, manifest) == pytest.approx(np.sqrt(6 / 4))


@pytest.mark.parametrize(
    ("output", "targets", "expected"),
    [
        (SCORES, np.array([0, 1, 0]), "accuracy"),
        (SCORES, to_array(["a", "b", "a"]), "accuracy"),
        (SCORES[:, :1], np.array([0.5, 1.5, 2.5]), "mae"),
        (SCORES[:, :1], np.array([150, 70, 98]), "mae"),
        (np.array([1, 0, 1]), np.array([1, 0, 0]), "accuracy"),
    ],
)
def test_the_metric_follows_from_targets_and_answers(make_package, output, targets, expected):
    manifest = make_package().manifest
    metric, _ = metrics.choose(None, manifest, {"y": output}, targets)
    assert metric.name == expected
    assert metric.higher_is_better == (expected == "accuracy")
    # A definition that says nothing has METRIC's default, accuracy; it means the same.
    assert metrics.choose(Metric(), manifest, {"y": output}, targets)[0].name == expected


def test_a_declared_value_is_judged_by_its_error(make_package):
    manifest = make_package(processing=Processing(output=ValuesOutput(tensor="y"))).manifest
    metric, _ = metrics.choose(None, manifest, {"y": SCORES}, np.array([[1, 2], [3, 4], [5, 6]]))
    assert metric == metrics.MAE


def test_a_unit_that_the_definition_gives_is_kept(make_package):
    asked = Metric(name="rmse", higher_is_better=False, unit="mm")
    metric, function = metrics.choose(
        asked, make_package().manifest, {"y": SCORES[:, :1]}, np.array([1.0, 2.0, 3.0])
    )
    assert metric is asked
    assert np.ndim(function({"y": SCORES[:, :1]}, np.array([1.0, 2.0, 3.0]))) == 0


def test_a_name_that_is_not_built_in_needs_a_function(make_package):
    with pytest.raises(DefinitionError, match="'f1' is not built in") as caught:
        metrics.choose(
            Metric(name="f1"), make_package().manifest, {"y": SCORES}, np.array([1, 0, 1])
        )
    assert "accuracy, agreement, mae, rmse" in caught.value.hint


@pytest.mark.parametrize("target", [-1, 2])
def test_a_class_that_the_model_has_no_score_for_is_named(make_package, target):
    with pytest.raises(DataError, match=f"the target {target} is no class of the model, whose 2"):
        metrics.accuracy({"scores": SCORES}, np.array([0, 1, target]), make_package().manifest)


def test_scores_of_nan_are_right_for_no_class(make_package):
    broken = np.full((2, 2), np.nan, dtype=np.float32)
    found = metrics.accuracy({"scores": broken}, np.array([0, 1]), make_package().manifest)
    assert found.tolist() == [0.0, 0.0]


def test_tokens_are_alike_by_their_labels_and_padding_does_not_count(make_package, make_engine):
    processing = Processing(
        input=TextInput(tensor="x", tokenizer="tokenizer.json", mask="x"),
        output=TokensOutput(tensor="logits"),
    )
    logits = TensorSpec("logits", "FP32", ("batch", "length", 3))
    package = make_package(outputs=(logits,), processing=processing)
    scores = np.eye(3, dtype=np.float32)
    inputs = {"x": np.array([[1, 1], [1, 0]], np.float32)}
    parent = metrics.told({"logits": scores[[[0, 1], [2, 2]]]}, inputs, package.manifest)
    assert parent.tolist() == [[0, 1], [2, -2]]

    answers = scores[[[0, 2], [2, 1]]]
    found = evaluate(
        package,
        [(inputs, Decisions(parent))],
        engine=make_engine(lambda _: {"logits": answers.copy()}),
    )
    assert (found.metric.name, found.value) == ("agreement", 75.0)

    answers[1, 0, 0] = np.nan
    found = evaluate(
        package, [(inputs, Decisions(parent))], engine=make_engine(lambda _: {"logits": answers})
    )
    assert (found.value, found.nan_rows) == (25.0, 1)
