import math
import re
from xml.etree import ElementTree

import pytest

from mlserve_cli.report.axes import Axis
from mlserve_cli.report.bars import Bar, bars
from mlserve_cli.report.colours import COLOURS, PAPER
from mlserve_cli.report.distribution import distribution
from mlserve_cli.report.frame import Reference
from mlserve_cli.report.histogram import histogram
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.scatter import Point, scatter
from mlserve_cli.report.shares import Part, shares

LATENCY = Axis("latency", "ms", better="low")
ACCURACY = Axis("accuracy", "%", better="high")


def drawn(plot):
    return ElementTree.fromstring(plot)


def texts(svg):
    return [item.text for item in svg.iter("text")]


def tooltips(svg):
    return [item.text for item in svg.iter("title")]


def circles(svg):
    found = svg.iterfind(".//g/circle[@class='mark']")
    return [(float(mark.get("cx")), float(mark.get("cy"))) for mark in found]


def by_class(svg, name):
    return [item for item in svg.iter() if name in (item.get("class") or "").split()]


def corners(path):
    return [tuple(map(float, place.split(","))) for place in path.get("d")[1:].split("L")]


def test_points_lie_where_their_values_say():
    svg = drawn(scatter([Point(x=x, y=x * x) for x in (1, 2, 3)], LATENCY, ACCURACY, title="t"))
    (x1, y1), (x2, y2), (x3, y3) = circles(svg)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.02)
    assert (y2 - y3) / (y1 - y2) == pytest.approx(5 / 3, abs=0.01)  # upwards on the page


def test_a_point_tells_its_name_its_values_and_its_intervals():
    point = Point(x=1.5, y=97, name='<int8 & "4">', group="a", x_interval=(1.4, 1.7))
    svg = drawn(scatter([point], LATENCY, ACCURACY, title="t"))
    assert tooltips(svg) == ['<int8 & "4">\na\nlatency: 1.5 ms (1.4 ms to 1.7 ms)\naccuracy: 97 %']
    assert '<int8 & "4">' in texts(svg)
    (interval,) = by_class(svg, "interval")
    low, high = map(float, re.match(r"M([\d.]+),[\d.]+H([\d.]+)", interval.get("d")).groups())
    ((x, _),) = circles(svg)
    assert high - x == pytest.approx(2 * (x - low), abs=0.05)


def test_an_interval_without_an_end_reaches_to_the_frame():
    points = [Point(x=5, y=2, x_interval=(-math.inf, 6)), Point(x=1, y=1)]
    svg = drawn(scatter(points, LATENCY, ACCURACY, title="t"))
    (interval,) = by_class(svg, "interval")
    (edge,) = by_class(svg, "edge")
    assert float(re.match(r"M([\d.]+)", interval.get("d"))[1]) == pytest.approx(
        float(edge.get("x1")), abs=0.01
    )


def test_the_front_steps_on_the_side_that_is_worse():
    places = {"slow": (3, 99), "fast": (1, 95), "middle": (2, 97)}
    points = [Point(x=x, y=y, name=name, front=True) for name, (x, y) in places.items()]
    svg = drawn(scatter([*points, Point(x=3, y=94)], LATENCY, ACCURACY, title="t"))
    at = dict(zip(places, circles(svg)[-3:][::1], strict=True))
    (line,) = [path for path in by_class(svg, "front") if path.get("class") == "front"]
    fast, middle, slow = (at[name] for name in ("fast", "middle", "slow"))
    # Along the accuracy of the faster one, up where the slower one begins.
    expected = [fast, (middle[0], fast[1]), middle, (slow[0], middle[1]), slow]
    for found, wanted in zip(corners(line), expected, strict=True):
        assert found == pytest.approx(wanted, abs=0.02)


def test_the_front_of_throughput_and_latency_turns_the_other_way():
    throughput = Axis("throughput", "rows/s", better="high")
    points = [Point(x=100, y=1, front=True), Point(x=200, y=3, front=True)]
    svg = drawn(scatter(points, throughput, LATENCY, title="t"))
    low, high = circles(svg)
    (line,) = [path for path in by_class(svg, "front") if path.get("class") == "front"]
    for found, wanted in zip(corners(line), [high, (low[0], high[1]), low], strict=True):
        assert found == pytest.approx(wanted, abs=0.02)


def test_a_point_on_the_front_that_another_beats_lies_behind_the_line():
    points = [Point(x=1, y=95, front=True), Point(x=1.1, y=94.9, front=True)]
    svg = drawn(scatter(points, LATENCY, ACCURACY, title="t"))
    (line,) = [path for path in by_class(svg, "front") if path.get("class") == "front"]
    assert len(corners(line)) == 1


def test_groups_have_a_legend_and_shapes_of_their_own():
    points = [Point(x=1, y=1, group="int8"), Point(x=2, y=2, group="fp32")]
    svg = drawn(scatter(points, LATENCY, ACCURACY, title="t"))
    assert {"int8", "fp32"} <= set(texts(svg))
    assert len(by_class(svg, "mark")) == 4  # two in the legend, two in the plot
    assert len({mark.tag for mark in by_class(svg, "mark")}) == 2


@pytest.mark.parametrize(
    "plot",
    [
        scatter([Point(x=math.nan, y=1), Point(x=1, y=1)], LATENCY, ACCURACY, title="t"),
        lines([Series("a", [1, 2], [1, math.inf])], LATENCY, ACCURACY, title="t"),
        distribution({"a": [1, math.nan]}, LATENCY, title="t"),
        histogram([1, math.inf], LATENCY, title="t"),
        bars([Bar("a", 1), Bar("b", math.nan)], LATENCY, title="t"),
    ],
    ids=["scatter", "lines", "distribution", "histogram", "bars"],
)
def test_what_has_no_place_is_counted_in_a_note(plot):
    svg = drawn(plot)
    note = "1 value was left out: not finite."
    assert note in texts(svg)
    assert note in svg.get("aria-label")


def test_a_logarithmic_axis_says_that_it_leaves_zero_out():
    svg = drawn(lines([Series("a", [0, 1], [1, 1])], Axis("x", log=True), LATENCY, title="t"))
    assert any("not above zero on a logarithmic axis" in line for line in texts(svg))


@pytest.mark.parametrize(
    "plot",
    [
        scatter([], LATENCY, ACCURACY, title="t"),
        lines([], LATENCY, ACCURACY, title="t"),
        distribution({}, LATENCY, title="t"),
        histogram([], LATENCY, title="t"),
        bars([], LATENCY, title="t"),
    ],
    ids=["scatter", "lines", "distribution", "histogram", "bars"],
)
def test_nothing_to_draw_is_said(plot):
    assert "no data" in texts(drawn(plot))
    assert drawn(plot).get("aria-label").endswith("No data.")


def test_a_value_that_is_missing_interrupts_its_line():
    series = Series("loss", [1, 2, 3, 4, 5], [1, 2, math.nan, 4, 5], low=[0] * 5, high=[9] * 5)
    svg = drawn(lines([series], Axis("epoch"), Axis("loss"), title="t"))
    assert len(by_class(svg, "series")) == 2
    assert len(by_class(svg, "band")) == 2
    assert "loss\nepoch: 4\nloss: 4 (0 to 9)" in tooltips(svg)


def test_a_long_line_is_thinned_but_keeps_its_peak():
    values = [math.sin(n / 900) for n in range(100_000)]
    values[77_777] = 30.0
    svg = drawn(lines([Series("", range(100_000), values)], LATENCY, ACCURACY, title="t"))
    (line,) = by_class(svg, "series")
    heights = [float(y) for y in re.findall(r",([\d.]+)", line.get("d"))]
    assert len(heights) <= 2004
    whole = drawn(lines([Series("", [0, 1], [-1, 30])], LATENCY, ACCURACY, title="t"))
    (peak,) = (float(mark.get("cy")) for mark in by_class(whole, "mark")[1:])
    assert min(heights) == pytest.approx(peak, abs=0.5)


def test_a_series_of_unequal_lengths_is_the_callers_mistake():
    with pytest.raises(ValueError, match="unequal lengths"):
        Series("a", [1, 2], [1])


def test_a_distribution_rises_to_the_share_that_was_drawn():
    values = [*range(1, 10_001), math.inf]
    svg = drawn(distribution({"a": values}, Axis("latency", "ms", log=True), title="t"))
    (line,) = by_class(svg, "series")
    shares_px = [float(y) for y in re.findall(r"V([\d.]+)", line.get("d"))]
    assert shares_px == sorted(shares_px, reverse=True)
    assert 100 < len(shares_px) < 500
    assert "a from 0 % to 99.99 %." in svg.get("aria-label")


def test_the_length_of_a_bar_is_its_value():
    svg = drawn(bars([Bar("a", 10), Bar("b", 5), Bar("c", -5)], LATENCY, title="t"))
    widths = [float(item.get("width")) for item in svg.iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.02)
    assert widths[1] == pytest.approx(widths[2], abs=0.02)
    assert {"10 ms", "5 ms", "−5 ms"} <= set(texts(svg))
    with pytest.raises(ValueError, match="logarithmic"):
        bars([], Axis("x", log=True), title="t")


def test_a_histogram_counts_every_value_once():
    values = [1, 1, 1, 2, 3, 9, 10]
    svg = drawn(histogram(values, LATENCY, title="t", counted="requests", bins=3))
    assert tooltips(svg) == ["1 to 4 ms: 5 requests", "7 to 10 ms: 2 requests"]
    low, high = (float(item.get("height")) for item in svg.iter("rect"))
    assert low / high == pytest.approx(2.5, abs=0.01)


def test_shares_add_up_to_the_whole_width():
    parts = [Part("int8", 30, "green"), Part("float", 10, "red"), Part("none", 0, "grey")]
    svg = drawn(shares(parts, title="Time", unit="µs"))
    whole = by_class(svg, "mark")
    assert [float(item.get("width")) for item in whole] == [570, 190]
    assert "int8: 75%, 30 µs" in texts(svg)
    assert "none: 0%, 0 µs" in texts(svg)


def test_a_reference_line_is_always_in_the_range():
    limit = Reference(90, "the limit")
    svg = drawn(scatter([Point(x=1, y=99)], LATENCY, ACCURACY, title="t", references=[limit]))
    (line,) = by_class(svg, "reference")
    ((_, point),) = circles(svg)
    assert float(line.get("y1")) > point
    assert "the limit" in texts(svg)


def test_a_long_name_is_shortened_on_the_page_and_whole_in_its_tooltip():
    name = "n" * 300
    svg = drawn(scatter([Point(x=1, y=1, name=name)], LATENCY, ACCURACY, title="t"))
    assert max(len(line) for line in texts(svg)) < 40
    assert any(name in line for line in tooltips(svg))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_seen_on_its_paper(colour):
    for mode, written in zip(("light", "dark"), COLOURS[colour], strict=True):
        assert _contrast(written, PAPER[mode]) >= 3


def _contrast(one, other):
    """WCAG 2.2's contrast ratio."""
    low, high = sorted(_luminance(written) for written in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(written):
    channels = (int(written[n : n + 2], 16) / 255 for n in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(
        part * channel for part, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )
