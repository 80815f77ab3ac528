"""The laws of plots: ticks, scales, and that any data and any name give a whole document."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.report.axes import Axis
from mlserve_cli.report.bars import Bar, bars
from mlserve_cli.report.box import Box
from mlserve_cli.report.distribution import distribution
from mlserve_cli.report.frame import Reference
from mlserve_cli.report.histogram import histogram
from mlserve_cli.report.labels import Wanted, placed
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.page import Page
from mlserve_cli.report.scatter import Point, scatter
from mlserve_cli.report.shares import Part, shares

anything = st.floats(allow_nan=True, allow_infinity=True)
drawable = st.floats(-1e150, 1e150)
axes = st.builds(
    Axis,
    st.text(max_size=20),
    st.text(max_size=5),
    log=st.booleans(),
    better=st.sampled_from(["low", "high", ""]),
    include=st.lists(anything, max_size=2).map(tuple),
    at=st.just(()) | st.lists(drawable, max_size=30).map(tuple),
)


@given(axes, st.lists(anything, max_size=8))
def test_ticks_lie_in_the_range_increase_and_are_few(axis, values):
    scale = axis.scale(values, 0, 100)
    ticks = [tick.value for tick in scale.ticks(6)]
    assert all(scale.low <= value <= scale.high for value in ticks)
    assert all(one < other for one, other in pairwise(ticks))
    assert len(ticks) <= 12
    assert len(ticks) >= 2 or axis.at


@given(axes, st.lists(anything, max_size=8))
def test_no_two_ticks_of_one_axis_have_the_same_label(axis, values):
    axis = Axis(axis.title, log=axis.log, include=axis.include)
    labels = [tick.label for tick in axis.scale(values, 0, 100).ticks(6)]
    assert len(set(labels)) == len(labels)


@given(axes, st.lists(anything, min_size=1, max_size=8), st.booleans())
def test_a_scale_is_monotone_and_holds_every_value_that_can_be_drawn(axis, values, downwards):
    start, end = (300.0, 20.0) if downwards else (20.0, 300.0)
    scale = axis.scale(values, start, end)
    inside = sorted(value for value in values if axis.drawable(value))
    assert all(scale.low <= value <= scale.high for value in inside)
    pixels = [scale(value) for value in inside]
    assert pixels == sorted(pixels, reverse=downwards)
    assert all(20.0 <= pixel <= 300.0 for pixel in pixels)


@given(st.floats(1e-6, 1e6), st.floats(1.01, 1e6))
def test_on_a_logarithmic_scale_equal_factors_are_equal_distances(low, factor):
    scale = Axis("", log=True).scale([low, low * factor], 0, 1000)
    middle = low * math.sqrt(factor)
    assert scale(middle) - scale(low) == pytest.approx(scale(low * factor) - scale(middle))


points = st.builds(
    Point,
    x=anything,
    y=anything,
    name=st.text(max_size=12),
    group=st.sampled_from(["", "a", '<&">']),
    x_interval=st.none() | st.tuples(anything, anything),
    y_interval=st.none() | st.tuples(anything, anything),
    front=st.booleans(),
    chosen=st.booleans(),
)
series = st.lists(st.tuples(*[anything] * 4), max_size=6).flatmap(
    lambda rows: st.builds(
        lambda name, step: Series(
            name,
            [row[0] for row in rows],
            [row[1] for row in rows],
            low=[row[2] for row in rows],
            high=[row[3] for row in rows],
            step=step,
        ),
        st.text(max_size=8),
        st.booleans(),
    )
)
references = st.lists(
    st.builds(Reference, anything, st.text(max_size=12), st.sampled_from(["x", "y"])), max_size=2
)
linear = axes.map(lambda axis: Axis(axis.title, axis.unit, include=axis.include, at=axis.at))
items = st.builds(
    Bar,
    st.text(max_size=80),
    anything,
    group=st.text(max_size=2),
    interval=st.none() | st.tuples(anything, anything),
)
samples = st.lists(anything, max_size=20)
parts = st.builds(Part, st.text(max_size=8), st.floats(0, 1e9), st.sampled_from(["blue", "grey"]))
plots = st.one_of(
    st.builds(
        scatter, st.lists(points, max_size=6), axes, axes, title=st.text(), references=references
    ),
    st.builds(
        lines, st.lists(series, max_size=3), axes, axes, title=st.text(), references=references
    ),
    st.builds(distribution, st.dictionaries(st.text(), samples, max_size=2), axes, title=st.text()),
    st.builds(histogram, samples, axes, title=st.text(), references=references),
    st.builds(bars, st.lists(items, max_size=5), linear, title=st.text()),
    st.builds(shares, st.lists(parts, max_size=4), title=st.text()),
)


@settings(deadline=None)
@given(plots, st.text())
def test_any_data_gives_a_document_that_parses_with_every_mark_inside_its_plot(plot, caption):
    page = Page(caption, caption)
    page.figure(plot, caption)
    page.table([caption], [[caption]])
    document = ElementTree.fromstring(page.render())
    (svg,) = document.iter("svg")
    _, _, width, height = map(float, svg.get("viewBox").split())
    for mark in svg.iter():
        places = _places(mark)
        assert all(-1 <= x <= width + 1 and -1 <= y <= height + 1 for x, y in places)
    assert svg.get("role") == "img"
    assert svg.get("aria-label")


def _places(mark):
    """The absolute coordinates that an element names; a number that is none fails to parse."""
    read = {
        name: float(value) for name, value in mark.items() if re.fullmatch("[xyr][12]?|c[xy]", name)
    }
    found = [
        (read[x], read[y])
        for x, y in (("x", "y"), ("x1", "y1"), ("x2", "y2"), ("cx", "cy"))
        if x in read
    ]
    if "width" in mark.keys() and mark.tag == "rect":  # noqa: SIM118
        size = float(mark.get("width")), float(mark.get("height"))
        assert min(size) >= 0
        found.append((read["x"] + size[0], read["y"] + size[1]))
    written = [place.split(",") for place in mark.get("points", "").split()]
    written += re.findall("[ML]([^,]+),([^A-Za-z]+)", mark.get("d", ""))
    found += [(float(x), float(y)) for x, y in written]
    assert not re.search("nan|inf", mark.get("d", ""))
    return found


@given(
    st.lists(
        st.builds(
            Wanted, st.text(max_size=30), st.floats(0, 400), st.floats(0, 300), st.booleans()
        ),
        max_size=12,
    )
)
def test_names_cover_neither_each_other_nor_a_point_and_stay_inside(wanted):
    area = Box(0, 0, 400, 300)
    marks = [Box(want.x - 5, want.y - 5, want.x + 5, want.y + 5) for want in wanted]
    boxes = [label.box for label in placed(wanted, area, avoid=marks) if label]
    assert all(area.holds(box) for box in boxes)
    assert not any(box.overlap(mark) for box in boxes for mark in marks)
    assert not any(box.overlap(other) for n, box in enumerate(boxes) for other in boxes[:n])
