import numpy as np
import pytest

from mlserve_cli.runtime.feedback.decisions import Agreement, Error, Undecided, decider
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput


def decide(manifest, **outputs):
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    return decider(manifest).decide(arrays, len(next(iter(arrays.values()))))


def test_a_classifier_decides_on_its_best_class_and_nan_is_never_the_best(manifest):
    made = manifest(declared=ClassesOutput("scores"))
    nan = np.nan

    rows = np.array([[1, 3, 2], [2, 2, 1], [nan, 0, 1], [nan, nan, nan]], np.float32)

    assert decide(made, scores=rows) == [1, 0, 2, 0]
    assert [decider(made).shown(each) for each in (0, 2)] == ["setosa", "virginica"]


@pytest.mark.parametrize("truth", ["virginica", 2, 2.0, "2"])
def test_a_truth_is_a_label_or_the_number_of_a_class(manifest, truth):
    decides = decider(manifest())

    assert decides.verdict(2, truth) == Agreement(right=True)
    assert decides.verdict(1, truth) == Agreement(right=False)


@pytest.mark.parametrize("truth", ["rose", 3, -1, 1.5, (1.0, 2.0), "nan"])
def test_a_truth_that_the_model_cannot_give_has_no_verdict(manifest, truth):
    assert decider(manifest()).verdict(1, truth) is None


@pytest.mark.parametrize("truth", [1, 1.0, "1"])
def test_a_label_that_looks_like_a_number_is_that_label(manifest, truth):
    decides = decider(manifest(labels=("1", "2", "3")))

    assert decides.verdict(0, truth) == Agreement(right=True)


def test_a_regression_has_errors_and_of_several_values_the_means(manifest):
    one = decider(manifest(("y", "FP32", ("batch", 1)), declared=ValuesOutput("y")))
    two = decider(manifest(("y", "FP32", ("batch", 2)), declared=ValuesOutput("y")))

    assert one.decide({"y": np.array([[1.5], [2.5]], np.float32)}, 2) == [1.5, 2.5]
    assert one.verdict(1.5, 1) == Error(0.5, 0.25)
    assert two.decide({"y": np.array([[1, 2]], np.float32)}, 1) == [(1.0, 2.0)]
    assert two.verdict((1.0, 2.0), (2.0, 5.0)) == Error(2.0, 5.0)
    assert two.verdict((1.0, 2.0), 1.0) is None
    assert one.verdict(float("nan"), 1.0) is None
    assert one.verdict(1e300, -1e300) is None  # its square would be infinite for ever
    assert one.verdict(1.5, "high") is None


def test_an_output_that_holds_the_class_itself_decides(manifest):
    numbers = manifest(
        ("label", "INT64", ("batch",)), ("scores", "FP32", ("batch", 5)), labels=("a", "b")
    )
    texts = manifest(("label", "BYTES", ("batch", 1)), labels=())

    assert decide(numbers, label=np.array([1, 0])) == [1, 0]
    assert decider(numbers).verdict(1, "b") == Agreement(right=True)
    assert decider(numbers).verdict(7, 7) == Agreement(right=True)
    assert decider(numbers).verdict(1, "c") is None
    assert decide(texts, label=np.array([[b"cat"], ["dog"]], object)) == ["cat", "dog"]
    assert decider(texts).verdict("cat", "dog") == Agreement(right=False)
    assert decider(manifest(("label", "BYTES", ("batch",)))).verdict("x", "rose") is None


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        ([("scores", "FP32", ("batch", 3))], "Classes"),  # as many as there are labels
        ([("logits", "FP32", ("batch", 7))], "Classes"),
        ([("y", "FP32", ("batch",))], "Values"),
        ([("y", "FP64", ("batch", 1))], "Values"),
        ([("count", "INT64", ("batch",))], "Labels"),
        ([("pixels", "FP32", ("batch", 3, 8, 8))], "NoneType"),
        ([("a", "FP32", ("batch", 2)), ("b", "FP32", ("batch", 4))], "NoneType"),
    ],
)
def test_without_a_declaration_the_signature_tells(manifest, outputs, kind):
    assert type(decider(manifest(*outputs))).__name__ == kind


def test_outputs_without_a_row_for_each_row_decide_nothing(manifest):
    decides = decider(manifest())

    for wrong in (np.zeros((2, 3)), np.zeros(()), np.zeros((1, 0))):
        with pytest.raises(Undecided):
            decides.decide({"scores": wrong}, 1)
