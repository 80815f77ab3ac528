import importlib
import io
import json

import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.predict.csv import CsvWriter
from mlserve_cli.predict.jsonl import JsonLinesWriter
from mlserve_cli.predict.npz import NpzWriter
from mlserve_cli.predict.output import WRITERS
from mlserve_cli.runtime.manifest import Manifest

MANIFEST = Manifest(name="made", version="1", variant="fp32", inputs=(), outputs=())


class Answers:
    """A processor whose answers are given."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def answers(self, outputs):
        return self._answers.pop(0)


def written(writer, file, batches):
    for outputs in batches:
        writer.write(outputs)
    writer.finish()
    file.seek(0)
    return file.read()


@pytest.mark.parametrize("target", WRITERS.values())
def test_every_writer_of_the_table_is_there(target):
    module, _, name = target.partition(":")
    assert hasattr(getattr(importlib.import_module(module), name), "write")


def test_nested_answers_become_flat_columns():
    file = io.BytesIO()
    answers = Answers([{"value": 1.5, "box": [1, 2], "who": {"name": "a, b", "ok": None}}])
    text = written(CsvWriter(file, MANIFEST, answers), file, [{}]).decode()
    assert text == 'value,box_0,box_1,who_name,who_ok\n1.5,1,2,"a, b",\n'


def test_an_answer_that_is_a_bare_value_has_a_column_of_its_own():
    file = io.BytesIO()
    text = written(CsvWriter(file, MANIFEST, Answers(["yes"], ["no"])), file, [{}, {}]).decode()
    assert text == "answer\nyes\nno\n"


def test_answers_with_other_columns_are_an_error_that_points_to_json_lines():
    file = io.BytesIO()
    writer = CsvWriter(file, MANIFEST, Answers([{"a": 1}, {"b": 2}]))
    with pytest.raises(
        DataError, match="the answer to row 2 has the columns b, and those before"
    ) as error:
        writer.write({})
    assert error.value.hint == "write to .jsonl"


def test_json_lines_hold_an_answer_a_line_and_null_for_nan():
    file = io.BytesIO()
    answers = Answers([{"a": float("nan")}, {"a": "ü\n"}], [3])
    text = written(JsonLinesWriter(file, MANIFEST, answers), file, [{}, {}])
    assert [json.loads(line) for line in text.splitlines()] == [{"a": None}, {"a": "ü\n"}, 3]


def test_npz_keeps_text_without_pickling_it():
    file = io.BytesIO()
    raw = np.array([b"a", "ü".encode()], dtype=object)
    written(NpzWriter(file, MANIFEST, Answers()), file, [{"label": raw}, {"label": raw[:1]}])
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        assert found["label"].tolist() == ["a", "ü", "a"]


def test_npz_refuses_rows_of_another_shape():
    writer = NpzWriter(io.BytesIO(), MANIFEST, Answers())
    writer.write({"y": np.zeros((2, 3))})
    with pytest.raises(DataError, match=r"rows of shape \[4\] after \[3\]"):
        writer.write({"y": np.zeros((2, 4))})
