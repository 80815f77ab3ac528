"""A browser draws the plots of a report where their markup says, in light and in dark."""

import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from mlserve_cli.report.axes import Axis
from mlserve_cli.report.bars import Bar, bars
from mlserve_cli.report.colours import COLOURS
from mlserve_cli.report.histogram import histogram
from mlserve_cli.report.lines import Series, lines
from mlserve_cli.report.page import Page
from mlserve_cli.report.scatter import Point, scatter
from mlserve_cli.report.shares import Part, shares

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# As wide as a plot and the page's padding, so that a pixel of the plot is one of the screen.
WIDTH, HEIGHT, PADDING = 760 + 2 * 16, 2000, 16
FIGURE_GAP = 1.5 * 16  # the margin of a figure, in the root's font size

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here")


@pytest.fixture(scope="module")
def plots():
    """The first is a bar over the whole width, by which the others are found."""
    x, y = Axis("latency", "ms", log=True), Axis("accuracy", "%")
    return [
        shares([Part("all", 1.0, "purple")], title="Whole"),
        scatter([Point(x=n, y=90 + n) for n in (1, 2, 5, 9)], x, y, title="Points"),
        lines([Series("", [1, 10], [0, 10])], Axis("x"), Axis("y"), title="A rising line"),
        bars([Bar("a", 3), Bar("b", 10)], Axis("memory", "MiB"), title="Bars"),
        histogram([1, 1, 1, 2, 3, 4], Axis("delay", "ms"), title="Counts", bins=3),
    ]


def screenshot(page, folder, scheme):
    """What a browser shows, as an RGB picture. scheme: 0 for dark, 1 for light."""
    from PIL import Image

    page.write(folder / "report.html")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--hide-scrollbars", "--force-device-scale-factor=1",
        f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={scheme}",
        f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={folder / 'shot.png'}",
        (folder / "report.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(folder / "shot.png") as picture:
        return picture.convert("RGB")


@pytest.mark.parametrize("scheme", [1, 0], ids=["light", "dark"])
def test_every_mark_is_drawn_in_its_colour_where_its_values_say(plots, scheme, tmp_path):
    page = Page("An example")
    for plot in plots:
        page.figure(plot)
    picture = screenshot(page, tmp_path, scheme)
    assert picture.size == (WIDTH, HEIGHT)
    drawn = [ElementTree.fromstring(plot) for plot in plots]
    colours = {f"var(--{name})": both[0 if scheme else 1] for name, both in COLOURS.items()}
    middle = WIDTH // 2
    purple = colours["var(--purple)"]
    bar = [y for y in range(HEIGHT) if near(picture.getpixel((middle, y)), purple)]
    assert 26 <= len(bar) <= 28  # all but its outline
    top = bar[0] - float(drawn[0].find("rect").get("y"))
    checked = 0
    for svg in drawn:
        for fill, x, y in centres(svg):
            # The browser rounds the places of boxes to its own grid: a pixel either way.
            around = [
                picture.getpixel((round(PADDING + x) + right, round(top + y) + down))
                for right in (-1, 0, 1)
                for down in (-1, 0, 1)
            ]
            assert any(near(found, colours[fill]) for found in around), (
                f"{svg.get('aria-label')} has {around} at {x}, {y}"
            )
            checked += 1
        top += float(svg.get("viewBox").split()[3]) + FIGURE_GAP
    assert checked == 2 + 4 + 3 + 2 + 3  # of the five plots in turn


def centres(svg):
    """(fill, x, y) of the middle of every filled circle and rectangle, and of every line."""
    for mark in svg.iter():
        if mark.tag == "circle":
            yield mark.get("fill"), float(mark.get("cx")), float(mark.get("cy"))
        elif mark.tag == "rect":
            x, y, width, height = (float(mark.get(n)) for n in ("x", "y", "width", "height"))
            yield mark.get("fill"), x + width / 2, y + height / 2
        elif mark.get("class") == "series":
            x1, y1, x2, y2 = map(float, re.findall(r"[\d.]+", mark.get("d")))
            yield mark.get("stroke"), (x1 + x2) / 2, (y1 + y2) / 2


def near(pixel, written):
    """Whether a pixel has this colour but for the smoothing of edges."""
    wanted = (int(written[n : n + 2], 16) for n in (1, 3, 5))
    return all(abs(one - other) <= 40 for one, other in zip(pixel, wanted, strict=True))
