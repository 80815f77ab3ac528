"""Which outputs are embeddings, what is measured of them, and what a gate makes of it."""

import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.evaluate import embeddings
from mlserve_cli.evaluate.cases import Decisions
from mlserve_cli.evaluate.disagreement import Decided
from mlserve_cli.evaluate.embeddings import Embeddings
from mlserve_cli.evaluate.evaluation import drop, evaluate
from mlserve_cli.evaluate.metrics import told
from mlserve_cli.package.definition import Metric
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.runtime.manifest import Processing
from mlserve_cli.runtime.processing.declaration import ClassesOutput, TokensOutput, ValuesOutput
from mlserve_cli.runtime.tensors import TensorSpec


def spec(name, *shape, datatype="FP32"):
    return TensorSpec(name, datatype, ("batch", *shape))


VALUES = Processing(output=ValuesOutput(tensor="out"))
EMBEDDING = (spec("embedding", 8),)


@pytest.mark.parametrize(
    ("outputs", "processing", "labels", "expected"),
    [
        ((spec("embedding", 8),), None, (), "embedding"),
        ((spec("sentence_embedding", "size"),), None, (), "sentence_embedding"),
        ((spec("last_hidden_state", "length", 8), spec("pooler_output", 8)), None, (),
         "last_hidden_state"),
        ((spec("out", 384),), VALUES, (), "out"),
        ((spec("out", 3),), VALUES, (), None),  # a regression of three values
        ((spec("out", 384),), None, (), None),  # scores of classes, for all that is known
        ((spec("embedding", 3),), None, ("a", "b", "c"), None),
        ((spec("embedding", 8),), Processing(output=ClassesOutput(tensor="embedding")), (), None),
        ((spec("embedding", "length", 8),), Processing(output=TokensOutput(tensor="embedding")),
         (), None),
        ((spec("embedding"),), None, (), None),
        ((spec("embedding", 8, datatype="INT64"),), None, (), None),
    ],
)  # fmt: skip
def test_what_is_an_embedding(make_package, outputs, processing, labels, expected):
    package = make_package(outputs=outputs, processing=processing or Processing(), labels=labels)
    found = embeddings.output_of(package.manifest)
    assert (found and found.name) == expected


def test_tokens_are_averaged_since_their_number_differs_from_batch_to_batch(make_package):
    manifest = make_package(outputs=(spec("last_hidden_state", "length", 2),)).manifest
    states = np.array([[[1, 2], [3, 4]], [[0, 0], [0, 2]]], np.float32)
    assert embeddings.vectors({"last_hidden_state": states}, manifest).tolist() == [[2, 3], [0, 1]]


def test_feature_maps_of_a_fixed_size_are_compared_whole(make_package):
    manifest = make_package(outputs=(spec("embedding", 2, 3),)).manifest
    maps = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    found = embeddings.vectors({"embedding": maps}, manifest)
    assert (found.shape, found.dtype) == ((2, 6), np.float32)


@pytest.fixture
def judged(make_package, make_engine, rows_of):
    """Evaluate a package that answers `found` against a parent that answers `wanted`."""

    def judge(found, wanted, metric=None):
        package = make_package(outputs=(spec("embedding", len(wanted[0])),))
        rows = np.arange(2 * len(found), dtype=np.float32).reshape(-1, 2)
        answers = {float(row[0]): answer for row, answer in zip(rows, found, strict=True)}
        engine = make_engine(
            lambda given: {
                "embedding": np.array([answers[float(row[0])] for row in given["x"]], np.float32)
            }
        )
        parent = told({"embedding": np.array(wanted, np.float32)}, {}, package.manifest)
        return evaluate(package, [({"x": rows}, Decisions(parent))], metric, engine=engine)

    return judge


WANTED = np.random.default_rng(0).standard_normal((200, 8))
NEAR = WANTED + 0.1 * np.random.default_rng(1).standard_normal((200, 8))


def test_without_targets_embeddings_are_judged_by_their_angle_and_their_neighbours(judged):
    before, after = judged(WANTED, WANTED), judged(NEAR, WANTED)
    assert (before.metric.name, before.value, before.low) == ("cosine", 1.0, 1.0)
    assert before.neighbours.same == 200
    assert 0.98 < after.value < 1.0
    assert after.low < after.value < after.high
    assert after.method == "bootstrap"
    assert 100 < after.neighbours.same < 200
    assert abs(after.neighbours.apart) < 0.1
    assert after.facts()["neighbours"]["share"] == after.neighbours.same / 200
    assert "of the 200 rows keep their nearest neighbour (95 % " in after.neighbours.sentence()


def test_the_drop_of_a_cosine_has_a_paired_interval(judged):
    lost = drop(judged(WANTED, WANTED), judged(NEAR, WANTED))
    assert 0 < lost.low < lost.value < lost.high < 0.02
    assert (lost.method, lost.p_value) == ("paired bootstrap", None)
    assert lost.proves(0.02)
    assert not lost.proves(0.001)
    none = drop(judged(WANTED, WANTED), judged(WANTED, WANTED))
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)


def test_a_definition_may_ask_for_the_neighbours_instead(judged):
    asked = Metric(name="neighbours")
    before, after = judged(WANTED, WANTED, asked), judged(NEAR, WANTED, asked)
    assert (before.value, before.metric.unit) == (100.0, "points")
    assert after.value == pytest.approx(after.neighbours.same / 2)
    lost = drop(before, after)
    assert lost.value == pytest.approx(100 - after.value)
    assert lost.p_value < 0.001


def test_a_model_that_answers_the_same_for_every_row_is_near_to_nothing(judged):
    flat = judged(np.ones((200, 8)), WANTED)
    assert abs(flat.value) < 0.1
    assert flat.neighbours.same < 10


def test_rows_answered_with_nan_are_told_and_keep_no_neighbour(judged):
    found = WANTED.copy()
    found[3, 2] = np.nan
    with pytest.raises(Exception, match="answers NaN for 1 of them"):
        judged(found, WANTED)
    counted = judged(found, WANTED, Metric(name="neighbours"))
    # The row itself, and those that it was the nearest of.
    assert 0.5 <= 100 - counted.value < 5
    assert counted.nan_rows == 1


def test_embeddings_of_another_length_cannot_be_compared(judged):
    with pytest.raises(DataError, match="embeddings of 8 numbers"):
        judged(NEAR, WANTED[:, :5])


def test_one_row_has_no_neighbour(judged):
    assert judged(NEAR[:1], WANTED[:1]).neighbours is None
    with pytest.raises(DataError, match="one row has no neighbours"):
        judged(NEAR[:1], WANTED[:1], Metric(name="neighbours"))


def test_targets_that_are_classes_are_no_embeddings(make_package, make_engine, rows_of):
    cases = [({"x": rows_of([0, 1])}, np.array([0, 1]))]
    with pytest.raises(DataError, match="'cosine' needs embeddings as targets"):
        evaluate(make_package(), cases, Metric(name="cosine"), engine=make_engine())


def test_embeddings_that_are_the_truth_are_targets_as_well(make_package, make_engine, rows_of):
    cases = [({"x": rows_of([0, 1])}, np.array([[2.0, 0.0], [3.0, 3.0]]))]
    found = evaluate(make_package(), cases, Metric(name="cosine", unit=""), engine=make_engine())
    assert found.value == pytest.approx((1 + 0.5**0.5) / 2)


def test_zeros_are_the_same_as_zeros_and_as_nothing_else():
    made = Embeddings()
    made.take(np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert made.cosines().tolist() == [1.0, 0.0]


def test_of_embeddings_no_single_row_is_shown_as_decided_otherwise(make_package):
    assert Decided(make_package(outputs=(spec("embedding", 8),))).decider is None


def test_several_values_a_row_are_compared_as_they_are(make_package, make_engine):
    package = make_package(
        outputs=(spec("out", 2),), processing=Processing(output=ValuesOutput(tensor="out"))
    )
    parent = told({"out": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}, {}, package.manifest)
    engine = make_engine(lambda given: {"out": given["x"]})
    rows = {"x": np.array([[1.0, 3.0], [3.0, 4.0]], np.float32)}
    found = evaluate(package, [(rows, Decisions(parent))], engine=engine)
    assert (found.metric.name, found.value) == ("mae", 0.25)
    # The parent is at no distance from itself: one percent of that would be nothing at all.
    assert Gate().allowed_drop(found) == pytest.approx(0.03)
