import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve_cli.cli.main import app
from mlserve_cli.errors import DataError, DefinitionError, StepError
from mlserve_cli.evaluate.cases import Decisions
from mlserve_cli.evaluate.evaluation import drop, evaluate
from mlserve_cli.evaluate.proportions import mcnemar
from mlserve_cli.package.definition import Metric

MINUS = "\N{MINUS SIGN}"


class Counted:
    """A progress with a memory."""

    def __init__(self):
        self.steps = 0

    def stage(self, text, total=None):
        pass

    def advance(self, steps=1, note=""):
        self.steps += steps

    def say(self, text):
        pass


@pytest.fixture
def measure(make_package, make_engine, rows_of):
    """Evaluate answers of the given classes against targets, in batches of ten."""

    def run(answers, targets, metric=None, function=None, **fields):
        cases = [
            (
                {"x": rows_of(answers[start : start + 10])},
                np.asarray(targets[start : start + 10]),
            )
            for start in range(0, len(answers), 10)
        ]
        return evaluate(make_package(**fields), cases, metric, function, engine=make_engine())

    return run


def test_accuracy_in_points_with_its_score_interval(measure):
    found = measure([0, 1] * 20, [0, 1] * 19 + [1, 0])
    assert found.value == pytest.approx(95.0)
    assert found.n == 40
    assert found.low < 95.0 < found.high < 100.0
    assert found.per_sample.tolist() == [1.0] * 38 + [0.0] * 2
    assert found.sentence() == "accuracy 95.00 points (95 % 83.50 … 98.62), n = 40"
    assert found.facts()["interval"] == "95 %, Wilson"


def test_an_engine_that_was_given_stays_open_and_one_that_was_loaded_is_closed(
    make_package, make_engine, rows_of, monkeypatch
):
    given, own = make_engine(), make_engine()
    cases = [({"x": rows_of([0, 1])}, np.array([0, 1]))]
    evaluate(make_package(), cases, engine=given)
    assert not given.closed
    monkeypatch.setattr("mlserve_cli.runtime.engines.open_package", lambda *_: own)
    progress = Counted()
    evaluate(make_package(), cases, progress=progress)
    assert own.closed
    assert progress.steps == 2


def test_an_engine_that_was_loaded_is_closed_when_a_case_is_wrong(
    make_package, make_engine, rows_of, monkeypatch
):
    own = make_engine()
    monkeypatch.setattr("mlserve_cli.runtime.engines.open_package", lambda *_: own)
    with pytest.raises(DataError):
        evaluate(make_package(), [({"x": rows_of([0, 1])}, np.array([0, 1, 1]))])
    assert own.closed


def test_targets_of_the_wrong_length_are_named(make_package, make_engine, rows_of):
    cases = [({"x": rows_of([0, 1])}, np.array([0, 1, 1]))]
    with pytest.raises(DataError, match="have 3 rows, and its inputs have 2"):
        evaluate(make_package(), cases, engine=make_engine())


def test_no_rows_at_all_are_an_error(make_package, make_engine):
    with pytest.raises(DataError, match="nothing to evaluate with"):
        evaluate(make_package(), [], engine=make_engine())


def test_an_answer_of_nan_is_wrong_and_is_reported(make_package, make_engine):
    # The best of [nan, 0] is found at 0, which is the target; it is no answer all the same.
    cases = [({"x": np.array([[np.nan, 0.0], [1.0, 0.0]], np.float32)}, np.array([0, 0]))]
    found = evaluate(make_package(), cases, engine=make_engine())
    assert found.per_sample.tolist() == [0.0, 1.0]
    assert found.nan_rows == 1
    assert "1 of them answered with NaN" in found.sentence()


def test_an_error_that_is_nan_has_no_value(make_package, make_engine):
    cases = [({"x": np.array([[np.nan, 0.0], [1.0, 0.0]], np.float32)}, np.zeros((2, 2)))]
    with pytest.raises(StepError, match="NaN for 1 of them"):
        evaluate(make_package(), cases, engine=make_engine())


def test_the_function_of_a_definition_gets_the_one_output_as_an_array(measure):
    seen = []

    def metric(outputs, targets):
        seen.append((type(outputs), outputs.shape, targets.shape))
        return outputs.argmax(1) == targets

    found = measure([0, 1, 1], [0, 1, 0], Metric(), metric)
    assert seen == [(np.ndarray, (3, 2), (3,))]
    assert found.per_sample.tolist() == [1.0, 1.0, 0.0]


def test_the_function_gets_several_outputs_by_name_and_text_as_str(make_package, make_engine):
    engine = make_engine(
        lambda tensors: {
            "label": np.array([b"a", b"b"], dtype=np.object_),
            "scores": tensors["x"],
        }
    )
    seen = []

    def metric(outputs, targets):
        seen.append((sorted(outputs), outputs["label"].tolist(), targets.tolist()))
        return outputs["label"] == targets

    cases = [({"x": np.ones((2, 2), np.float32)}, ["a", "c"])]
    found = evaluate(make_package(), cases, Metric(), metric, engine=engine)
    assert seen == [(["label", "scores"], ["a", "b"], ["a", "c"])]
    assert found.value == pytest.approx(50.0)


def test_a_metric_of_the_wrong_length_is_a_sentence(measure):
    with pytest.raises(DefinitionError, match=r"answered the shape \(2,\) for 3 rows"):
        measure([0, 1, 1], [0, 1, 0], Metric(), lambda outputs, targets: np.ones(2))


def test_a_metric_that_answers_no_number_is_a_sentence(measure):
    with pytest.raises(DefinitionError, match="answered str"):
        measure([0, 1], [0, 1], Metric(), lambda outputs, targets: "fine")


def test_one_number_for_all_rows_is_bootstrapped_over_the_whole_set(measure):
    sizes = []

    def metric(outputs, targets):
        sizes.append(len(targets))
        return float(np.mean(outputs.argmax(1) == targets))

    answers = [0, 1] * 15
    found = measure(answers, [0, 1] * 12 + [1, 0] * 3, Metric(name="balanced"), metric)
    assert found.value == pytest.approx(80.0)
    assert found.low < 80.0 < found.high
    assert found.per_sample is None
    assert found.resampled.shape == (2000,)
    # The first batch shows that it is one number; then the whole set, and every draw of it.
    assert sizes[0] == 10
    assert set(sizes[1:]) == {30}


def test_resamples_that_have_no_value_are_left_out(measure):
    def metric(outputs, targets):
        if len(set(targets.tolist())) < 2:
            raise DefinitionError("only one class")
        return 1.0

    found = measure([0, 1, 1, 1, 1], [0, 1, 1, 1, 1], Metric(name="auc"), metric)
    assert 0 < np.isnan(found.resampled).sum() < 1000
    assert (found.low, found.high) == (100.0, 100.0)


def test_a_loss_is_positive_and_paired_by_row(measure):
    targets = [0] * 1000
    before = measure([0] * 960 + [1] * 40, targets)
    after = measure([0] * 950 + [1] * 43 + [0] * 7, targets)
    lost = drop(before, after)
    assert lost.value == pytest.approx(0.3)
    assert lost.low < 0.0 < 0.3 < lost.high
    assert lost.n == 1000
    assert lost.facts()["interval"] == "95 %, Agresti-Min, paired"
    assert lost.sentence() == f"loss 0.30 points (95 % {MINUS}0.53 … 1.13), n = 1000"
    # Paired, the interval is narrower than two separate ones would make it.
    assert lost.high - lost.low < before.high - before.low


def test_a_gain_is_worded_as_one(measure):
    lost = drop(measure([0, 1] * 50, [0] * 100), measure([0] * 100, [0] * 100))
    assert lost.value == pytest.approx(-50.0)
    assert lost.low < -50.0 < lost.high
    assert lost.sentence().startswith("gain 50.00 points (95 % 39.")


def test_no_change_at_all_is_still_uncertain(measure):
    found = measure([0, 1] * 50, [0, 1] * 50)
    lost = drop(found, found)
    assert lost.value == 0.0
    assert lost.low < 0.0 < lost.high
    assert lost.sentence().startswith("loss 0.00 points")


def test_where_lower_is_better_a_larger_error_is_a_loss(measure):
    metric = Metric(name="cost", higher_is_better=False, unit="ms")
    before = measure([0] * 20, list(range(20)), metric, lambda outputs, targets: targets * 1.0)
    after = measure([0] * 20, list(range(20)), metric, lambda outputs, targets: targets + 2.0)
    lost = drop(before, after)
    assert lost.value == pytest.approx(2.0)
    assert (lost.low, lost.high) == (pytest.approx(2.0), pytest.approx(2.0))
    assert lost.sentence() == "loss 2 ms (95 % 2 … 2), n = 20"


def test_one_number_for_all_is_compared_over_the_same_draws(measure):
    def metric(offset):
        return lambda outputs, targets: float(targets.mean()) - offset

    before = measure([0] * 20, list(range(20)), Metric(name="r", unit=""), metric(0.0))
    after = measure([0] * 20, list(range(20)), Metric(name="r", unit=""), metric(1.0))
    lost = drop(before, after)
    # Every draw of rows lowers both alike, so that nothing is left of their noise.
    assert (lost.value, lost.low, lost.high) == (
        pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0)
    )  # fmt: skip


def test_other_rows_cannot_be_paired(measure):
    first = measure([0, 1, 1], [0, 1, 1])
    with pytest.raises(DataError, match="one has 3 rows, the other 2"):
        drop(first, measure([0, 1], [0, 1]))
    with pytest.raises(DataError, match="not in the same order") as caught:
        drop(first, measure([1, 0, 1], [1, 0, 1]))
    assert "seed" in caught.value.hint


def test_another_metric_cannot_be_paired(measure):
    first = measure([0, 1], [0, 1])
    with pytest.raises(DataError, match="'accuracy' in points, the other 'cost'"):
        drop(first, measure([0, 1], [0, 1], Metric(name="cost", unit=""), lambda o, t: t * 1.0))


def test_another_packages_decisions_are_agreement_not_accuracy(make_package, make_engine, rows_of):
    cases = [({"x": rows_of([0, 1, 1, 0])}, Decisions(np.array([0, 1, 0, 0])))]

    def metric(outputs, targets):
        raise AssertionError("nobody knows the truth, so accuracy cannot be asked for")

    found = evaluate(make_package(), cases, Metric(), metric, engine=make_engine())
    assert found.metric.name == "agreement"
    assert found.value == pytest.approx(75.0)


def test_a_small_loss_on_few_rows_is_not_proven_and_the_rows_that_it_takes_are_named(measure):
    targets = [0, 1] * 100
    before = measure(targets, targets)
    after = measure([1, *targets[1:]], targets)
    lost = drop(before, after)
    assert lost.value == pytest.approx(0.5)
    assert not lost.proves(1.0)
    needed = lost.rows_to_prove(1.0)
    assert needed > 200
    # Five times the rows with five times the changes are what was promised to be enough, or not.
    many = [0, 1] * (needed // 2)
    wrong = round(needed * 0.005)
    later = drop(
        measure(many, many), measure([1 - label for label in many[:wrong]] + many[wrong:], many)
    )
    assert later.proves(1.1)
    assert "is likely but not proven" in lost.proof(1.0)
    assert f"{needed:,} rows" in lost.proof(1.0)


def test_a_loss_above_the_limit_is_proven_by_no_number_of_rows(measure):
    targets = [0, 1] * 50
    lost = drop(measure(targets, targets), measure([1, 0] * 5 + targets[10:], targets))
    assert lost.rows_to_prove(1.0) is None
    assert lost.proof(1.0) == "the loss is not within 1.00 points"


def test_a_loss_that_is_the_limit_itself_is_not_called_larger(measure):
    targets = [0, 1] * 50
    lost = drop(measure(targets, targets), measure(targets, targets))
    assert lost.value == 0
    assert lost.proof(0.0) == (
        "a loss of at most 0.00 points is measured, and no number of rows would prove it"
    )


def test_no_change_on_many_rows_proves_a_loss_below_half_a_point(measure):
    targets = [0, 1] * 1000
    lost = drop(measure(targets, targets), measure(targets, targets))
    assert lost.proves(0.5)
    assert lost.p_value == 1.0
    assert lost.proof(0.5) == "that the loss is at most 0.50 points is proven at 95 %"


def test_chance_parts_changed_answers_evenly(measure):
    targets = [0] * 40
    before = measure([0] * 30 + [1] * 10, targets)
    after = measure([1] * 8 + [0] * 30 + [1] * 2, targets)
    assert drop(before, after).p_value == 1.0  # eight lost, eight won


def test_the_exact_test_of_changed_answers_is_the_binomial_one():
    # Two-sided, ten changes that all went one way: 2 / 2^10.
    assert mcnemar(10, 0) == pytest.approx(2 / 1024)
    assert mcnemar(0, 10) == mcnemar(10, 0)
    assert mcnemar(3, 9) == pytest.approx(0.14599609375)
    assert 0 < mcnemar(1500, 1300) < 0.001


def test_a_model_no_better_than_the_commonest_class_is_doubted_and_no_loss_of_it_is_proven(measure):
    random = np.random.default_rng(7)
    truth = random.integers(0, 2, 2000)
    shuffled = random.permutation(truth)
    before = measure(truth, shuffled)
    share = max(np.mean(shuffled == 0), np.mean(shuffled == 1))
    label = f"class {int(np.mean(shuffled) > 0.5)}"
    assert before.facts()["constant"] == {"answer": label, "share": pytest.approx(share)}
    doubt = (
        f"is right in {before.value:.1f} % of the rows, and always answering '{label}' would be "
        f"in {share * 100:.1f} %: the labels or their order may be wrong; a loss measured with "
        "them proves nothing"
    )
    assert before.facts()["doubt"] == f"the model {doubt}"
    lost = drop(before, measure(truth, shuffled))
    assert lost.proof(1.0) == f"the model that it is compared with {doubt}"
    assert lost.facts()["doubt"] == lost.doubt
    assert not lost.proves(1.0)
    assert lost.rows_to_prove(1.0) is None
    assert lost.proof(-1.0).startswith("the loss is not within")
    assert lost.doubt in lost.proof(-1.0)


def test_the_same_model_with_the_labels_in_their_order_is_not_doubted(measure):
    truth = np.random.default_rng(7).integers(0, 2, 2000)
    before = measure(truth, truth)
    assert before.doubt() == before.facts()["doubt"] == ""
    assert before.facts()["constant"]["share"] < 0.6
    assert "is proven at 95 %" in drop(before, measure(truth, truth)).proof(1.0)


def test_where_rows_are_not_right_or_wrong_by_a_class_nothing_is_said_of_the_commonest(measure):
    numbers = measure([0, 1] * 20, [0.25, 1.5] * 20, Metric("hits"), lambda found, wanted: [0] * 10)
    own = measure([0, 1] * 20, [1, 0] * 20, Metric("top5"), lambda found, wanted: [0.0] * 10)
    graded = measure([0, 1] * 20, [1, 0] * 20, Metric(), lambda found, wanted: [0.3] * 10)
    assert [found.constant for found in (numbers, own, graded)] == [None, None, None]
    assert [found.doubt() for found in (numbers, own, graded)] == ["", "", ""]


def test_text_targets_name_their_commonest_class(measure):
    found = measure([0, 1] * 20, ["dog"] * 40, labels=("cat", "dog"))
    assert found.facts()["constant"] == {"answer": "dog", "share": 1.0}
    assert "always answering 'dog' would be in 100.0 %" in found.doubt()


def test_the_command_says_so_of_labels_in_another_order(iris_package, iris, tmp_path):
    place = tmp_path / "shuffled.npz"
    np.savez(place, x=iris[0], target=np.random.default_rng(3).permutation(iris[1]))
    package = iris_package()
    result = CliRunner().invoke(app, ["evaluate", str(package.path), "--data", str(place)])
    assert result.exit_code == 0
    assert "the labels or their order may be wrong" in " ".join(result.stderr.split())
    assert "the labels or their order may be wrong" in package.evidence("accuracy")[-1]["doubt"]
