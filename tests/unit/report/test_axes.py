import math

import pytest

from mlserve_cli.report.axes import Axis, number


def labels(axis, values):
    return [tick.label for tick in axis.scale(values, 0, 100).ticks(6)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 10], ["0", "2", "4", "6", "8", "10"]),
        ([-0.5, 0.5], ["−0.4", "−0.2", "0.0", "0.2", "0.4"]),
        ([0, 50_000], ["0", "10,000", "20,000", "30,000", "40,000", "50,000"]),
        ([0, 3e8], ["0", "1×10⁸", "2×10⁸", "3×10⁸"]),
        ([0, 1e7], ["0", "0.2×10⁷", "0.4×10⁷", "0.6×10⁷", "0.8×10⁷", "1.0×10⁷"]),
        ([1e9, 1e9 + 4], [f"1,000,000,00{n}" for n in range(5)]),
    ],
)
def test_linear_ticks_are_round_and_have_as_many_decimals_as_they_need(values, expected):
    assert labels(Axis("x"), values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 100], ["1", "2", "5", "10", "20", "50", "100"]),
        ([0.001, 1000], ["0.001", "0.01", "0.1", "1", "10", "100", "1,000"]),
        ([1e-12, 1e12], ["1×10⁻¹²", "1×10⁻⁸", "0.0001", "1", "10,000", "1×10⁸", "1×10¹²"]),
        ([2, 3], ["2.0", "2.2", "2.4", "2.6", "2.8", "3.0"]),
    ],
)
def test_logarithmic_ticks_are_powers_of_ten_or_parts_of_one(values, expected):
    assert labels(Axis("x", log=True), values) == expected


def test_an_axis_ends_at_what_it_must_include_and_has_room_elsewhere():
    scale = Axis("x", include=(0,)).scale([4, 10], 0, 100)
    assert scale.low == 0
    assert scale.high == pytest.approx(10.5)


def test_ticks_stand_where_they_were_asked_for():
    axis = Axis("batch", log=True, at=(1, 2, 4, 8, 16, 32))
    assert labels(axis, [1, 16]) == ["1", "2", "4", "8", "16"]


def test_one_value_stands_in_the_middle():
    assert Axis("x").scale([7, 7], 0, 100)(7) == pytest.approx(50)
    assert Axis("x", log=True).scale([7], 0, 100)(7) == pytest.approx(50)
    assert Axis("x").scale([0], 0, 100)(0) == pytest.approx(50)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_no_measurement_has_no_place(value):
    assert not Axis("x").drawable(value)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_zero_and_less_have_no_place_on_a_logarithmic_axis(value):
    assert Axis("x").drawable(value)
    assert not Axis("x", log=True).drawable(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (1234.56, "1,235"),
        (12.5, "12.5"),
        (9.99996, "10"),
        (-0.01234567, "−0.01235"),
        (3.5e-7, "3.5×10⁻⁷"),
        (6.02e23, "6.02×10²³"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_a_number_is_written_to_four_significant_digits(value, expected):
    assert number(value) == expected


def test_a_caption_has_the_unit_and_what_is_better():
    axis = Axis("p99 latency", "ms", better="low")
    assert axis.caption == "p99 latency (ms), lower is better"
    assert axis.quantity(1.25) == "1.25 ms"
