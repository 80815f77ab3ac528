import re
from xml.etree import ElementTree

import pytest

from mlserve_cli.errors import PackageError
from mlserve_cli.report.axes import Axis
from mlserve_cli.report.page import Page
from mlserve_cli.report.scatter import Point, scatter
from mlserve_cli.report.table import Cell

HOSTILE = "<script>alert(1)</script>\"'&<b> \x00"


@pytest.fixture
def page():
    """A page with the same hostile text wherever a text goes."""
    made = Page(HOSTILE, HOSTILE)
    made.section(HOSTILE)
    made.text(HOSTILE)
    axis = Axis(HOSTILE, HOSTILE)
    made.figure(scatter([Point(x=1, y=1, name=HOSTILE)], axis, axis, title=HOSTILE), HOSTILE)
    made.table([HOSTILE], [[HOSTILE], [Cell(HOSTILE)]])
    return made


def cells(page):
    document = ElementTree.fromstring(page.render())
    return [["".join(cell.itertext()) for cell in row] for row in document.iter("tr")]


def test_no_text_becomes_markup(page):
    document = ElementTree.fromstring(page.render())
    assert not list(document.iter("script"))
    assert not list(document.iter("b"))
    shown = HOSTILE.replace("\x00", "\ufffd")
    assert [item.text for item in document.iter("p")] == [shown, shown]
    assert document.find("head/title").text == shown
    assert cells(page)[1:] == [[shown], [shown]]


def test_a_long_path_may_break_after_its_slashes_and_reads_the_same():
    name = "/model/layer1/" + "x" * 30 + "/Conv_quant"
    page = Page("t")
    page.table(["node"], [[name], ["short/path"]])
    assert cells(page)[1:] == [[name], ["short/path"]]
    assert "/<wbr/>model/<wbr/>layer1/<wbr/>" + "x" * 24 + "<wbr/>" in page.render()
    assert "short/path" in page.render()


def test_a_page_refers_to_nothing_outside_and_forbids_it(page):
    text = page.render()
    assert not re.search(r"(src|href|action|data)=|https?:|@import|url\(", text)
    policy = ElementTree.fromstring(text).find("head/meta[@http-equiv]")
    assert policy.get("http-equiv") == "Content-Security-Policy"
    assert policy.get("content").startswith("default-src 'none';")


def test_numbers_of_a_column_stand_to_the_right_with_their_points_in_line():
    page = Page("t")
    page.table(["name", "ms", "n"], [["a", 98.6, 1200], ["b", 98.64, None], ["c", float("nan"), 3]])
    assert cells(page)[1:] == [["a", "98.60", "1,200"], ["b", "98.64", "–"], ["c", "–", "3"]]
    document = ElementTree.fromstring(page.render())
    assert [item.get("class") for item in document.iter("th")] == [None, "number", "number"]


def test_numbers_far_apart_keep_their_digits():
    page = Page("t")
    page.table(["v"], [[0.001234], [1234.5], [-2e-9]])
    assert cells(page)[1:] == [["0.001234"], ["1,234"], ["−2×10⁻⁹"]]


def test_a_row_stands_out_and_a_bar_has_its_length():
    page = Page("t")
    page.table(["a", ""], [["x", Cell(bar=0.25)], ["y", Cell(bar=7.0)]], highlight={1})
    document = ElementTree.fromstring(page.render())
    assert [row.get("class") for row in document.iterfind(".//tbody/tr")] == [None, "chosen"]
    bars = [item.get("style") for item in document.iter("div") if item.get("class") == "bar"]
    assert [re.match(r"width:([\d.]+)%", style)[1] for style in bars] == ["25.0", "100.0"]


def test_a_row_of_another_length_is_the_callers_mistake():
    with pytest.raises(ValueError, match="row 1 has 1 cells, the head has 2"):
        Page("t").table(["a", "b"], [["x", "y"], ["x"]])


def test_a_page_is_written_whole_in_place_of_an_older_one(page, tmp_path):
    target = tmp_path / "report.html"
    target.write_text("old")
    page.write(target)
    assert target.read_text(encoding="utf-8") == page.render()
    assert list(tmp_path.iterdir()) == [target]


def test_a_page_that_cannot_be_written_is_told_in_a_sentence(page, tmp_path):
    with pytest.raises(PackageError, match=r"missing/report\.html' cannot be written"):
        page.write(tmp_path / "missing" / "report.html")
