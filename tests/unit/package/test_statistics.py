"""The statistics of a package are plain JSON, whatever the tensors hold."""

import json
import math

import numpy as np
import pytest

from mlserve_cli.package import statistics


def test_each_column_of_a_table_has_figures_of_its_own():
    table = np.array([[0, 10], [1, 20], [2, 30], [3, np.nan]], np.float32)

    first, second = statistics.describe(table)["columns"]

    assert (first["mean"], first["min"], first["max"], first["missing"]) == (1.5, 0, 3, 0)
    assert (second["mean"], second["missing"]) == (20, 0.25)
    assert first["quantiles"][5] == 1.5


def test_a_wide_tensor_is_summed_up_as_a_whole():
    facts = statistics.describe(np.ones((2, 3, 8, 8), np.float32))

    assert facts["mean"] == 1
    assert "columns" not in facts


def test_classes_and_text_hold_the_share_of_each_value():
    text = np.array([b"no", b"no", b"yes", b"\xff"], dtype=object)

    assert statistics.describe(np.array([1, 1, 2, 2]))["shares"] == {"1": 0.5, "2": 0.5}
    assert statistics.describe(text)["shares"]["no"] == 0.5


@pytest.mark.parametrize(
    "values", [[np.nan, np.nan], [np.inf, -np.inf], [1.7e308, -1.7e308], [0.0, 0.0]]
)
def test_the_file_is_strict_json_for_any_numbers(tmp_path, values):
    tensors = {"x": np.array(values).reshape(-1, 1)}

    statistics.write(tmp_path, tensors, tensors)

    def refuse(token):
        pytest.fail(f"{token} is no JSON")

    facts = json.loads((tmp_path / "statistics.json").read_text(), parse_constant=refuse)
    assert 0 <= facts["inputs"]["x"]["missing"] <= 1


def test_the_same_rows_in_another_order_of_summation_give_the_same_file(tmp_path):
    values = np.random.default_rng(0).normal(size=(1000, 3))

    one = statistics.describe(values)["columns"][0]["mean"]
    other = float(f"{math.fsum(values[:, 0]) / 1000:.6g}")

    assert one == other
