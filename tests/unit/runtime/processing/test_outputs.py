from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import PackageError
from mlserve_cli.runtime.processing.declaration import ClassesOutput, ValuesOutput
from mlserve_cli.runtime.processing.outputs import plain, softmax


def answers(found: Any, values: Any, dtype: Any = np.float32) -> Any:
    return found.answers({"y": np.array(values, dtype=dtype)})


def test_the_best_classes_are_named_best_first(make: Any) -> None:
    found = make(labels=("a", "b", "c"), output=ClassesOutput(tensor="y", top_k=2))
    (answer,) = answers(found, [[0.2, 0.7, 0.1]])
    assert answer == {"label": "b", "score": 0.7, "scores": {"b": 0.7, "a": 0.2}}
    assert list(answer["scores"]) == ["b", "a"]


def test_logits_become_shares(make: Any) -> None:
    found = make(output=ClassesOutput(tensor="y", softmax=True))
    (answer,) = answers(found, [[0.0, np.log(3.0), -1000.0]])
    assert answer["label"] == "1"
    assert answer["scores"] == {"1": 0.75, "0": 0.25, "2": 0.0}


def test_large_logits_do_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4]])), [[0.5, 0.5]])


def test_an_uncertain_answer_has_no_label(make: Any) -> None:
    found = make(output=ClassesOutput(tensor="y", threshold=0.5))
    assert answers(found, [[0.3, 0.4, 0.3]])[0]["label"] is None
    assert answers(found, [[0.1, 0.8, 0.1]])[0]["label"] == "1"


def test_ties_go_to_the_first_and_nan_to_the_end(make: Any) -> None:
    found = make(output=ClassesOutput(tensor="y"))
    assert list(answers(found, [[0.5, np.nan, 0.5]])[0]["scores"]) == ["0", "2", "1"]
    assert answers(found, [[np.nan] * 3])[0] == {
        "label": None,
        "score": None,
        "scores": {"0": None, "1": None, "2": None},
    }


def test_labels_must_be_as_many_as_classes(make: Any) -> None:
    with pytest.raises(PackageError, match="2 labels"):
        make(labels=("a", "b"), output=ClassesOutput(tensor="y"))
    with pytest.raises(PackageError, match="no output"):
        make(output=ClassesOutput(tensor="z"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.5, 2.5], [{"value": 1.5}, {"value": 2.5}]),
        ([[1.5], [2.5]], [{"value": 1.5}, {"value": 2.5}]),
        ([[1.5, 2.5]], [{"values": [1.5, 2.5]}]),
    ],
)
def test_a_regression_answers_its_values(make: Any, values: Any, expected: Any) -> None:
    assert answers(make(output=ValuesOutput(tensor="y")), values) == expected


def test_float32_is_written_as_short_as_it_is() -> None:
    assert plain(np.array([[0.1], [3.4e38]], dtype=np.float32)) == [[0.1], [3.4e38]]
    assert plain(np.array([0.1])) == [0.1]
    assert plain(np.array([True, False])) == [True, False]


def test_undeclared_outputs_are_answered_by_name(make: Any) -> None:
    found = make(outputs=(("y", "FP32", ("batch",)), ("z", "BYTES", ("batch", 1))))
    words = np.array([[b"a"], [b"\xff"]], dtype=np.object_)
    outputs = {"y": np.array([1.5, 2.5], np.float32), "z": words}
    assert found.answers(outputs) == [{"y": 1.5, "z": ["a"]}, {"y": 2.5, "z": ["\ufffd"]}]
