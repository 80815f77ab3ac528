"""The mark of one point, told apart by shape as well as by colour."""

from __future__ import annotations

from mlserve_cli.report.colours import Look
from mlserve_cli.report.markup import Markup, element

RADIUS_PX = 4.5


def marker(look: Look, x: float, y: float, radius: float = RADIUS_PX) -> Markup:
    """The look's shape around (x, y), all shapes of about the same area."""
    if look.shape == "circle":
        return element("circle", class_="mark", cx=x, cy=y, r=radius, fill=look.css)
    if look.shape == "square":
        side = radius * 0.9
        return element(
            "rect",
            class_="mark",
            x=x - side,
            y=y - side,
            width=2 * side,
            height=2 * side,
            fill=look.css,
        )
    if look.shape == "cross":
        arm = radius * 0.9
        path = f"M{x - arm:.2f},{y - arm:.2f}l{2 * arm:.2f},{2 * arm:.2f}"
        path += f"m0,{-2 * arm:.2f}l{-2 * arm:.2f},{2 * arm:.2f}"
        return element("path", d=path, fill="none", stroke=look.css, stroke_width=2.5)
    if look.shape == "diamond":
        reach = radius * 1.25
        corners = [(0.0, -reach), (reach, 0.0), (0.0, reach), (-reach, 0.0)]
    else:
        reach = radius * 1.2
        corners = [(0.0, -reach), (reach, 0.75 * reach), (-reach, 0.75 * reach)]
    points = " ".join(f"{x + right:.2f},{y + down:.2f}" for right, down in corners)
    return element("polygon", class_="mark", points=points, fill=look.css)
