"""A report as one HTML file: it needs no network and no script, on a screen or on paper."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mlserve_cli.package.draft import hidden_beside, writing
from mlserve_cli.report import table as tables
from mlserve_cli.report.markup import Markup, element, text
from mlserve_cli.report.style import style

# The browser itself holds the page to it: nothing is fetched and nothing runs.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Page:
    """Collects what a report says, in order. All text is escaped; plots come as markup.

    page = Page("digits, int8", "accuracy and latency of 12 variants")
    page.figure(scatter(points, LATENCY, ACCURACY, title="Variants"), "Bars are 95 % intervals.")
    page.table(["variant", "p99 ms"], [["int8", 1.25]], highlight={0})
    page.write(Path("report.html"))
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._parts = [element("h1", text(title))]
        if subtitle:
            self._parts.append(element("p", text(subtitle), class_="subtitle"))

    def section(self, heading: str) -> None:
        """Begin a section."""
        self._parts.append(element("h2", text(heading)))

    def text(self, paragraph: str) -> None:
        """Add a paragraph."""
        self._parts.append(element("p", text(paragraph)))

    def figure(self, plot: Markup, caption: str = "") -> None:
        """Add a plot, with what a reader should see in it."""
        below = [element("figcaption", text(caption))] if caption else []
        self._parts.append(element("figure", plot, *below))

    def table(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[tables.Value]],
        *,
        highlight: Collection[int] = (),
    ) -> None:
        """Add a table; see `table.table`."""
        self._parts.append(tables.table(head, rows, highlight=highlight))

    def render(self) -> str:
        """The whole document, which is valid as HTML and as XML."""
        head = (
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", text(self._title)),
            element("style", style()),
        )
        body = Markup("\n".join(self._parts))
        document = element("html", element("head", *head), element("body", body), lang="en")
        return f"<!DOCTYPE html>\n{document}\n"

    def write(self, path: Path) -> None:
        """Write the document, whole or not at all. Raises `PackageError` where it cannot be."""
        with writing(path), hidden_beside(path) as hidden:
            hidden.write_text(self.render(), encoding="utf-8")
            hidden.replace(path)
