"""How a report looks: on paper, on a light and on a dark screen."""

from __future__ import annotations

from mlserve_cli.report.colours import COLOURS, PAPER
from mlserve_cli.report.markup import Markup


def style() -> Markup:
    """The content of the page's `<style>`; print is always light."""
    light = "".join(f"--{name}:{colours[0]};" for name, colours in COLOURS.items())
    dark = "".join(f"--{name}:{colours[1]};" for name, colours in COLOURS.items())
    return Markup(
        f":root{{color-scheme:light;{light}--paper:{PAPER['light']};"
        "--ink:#1c2128;--quiet:#59636e;--rule:#d5dae0;--faint:#e9ecf0;--shade:#eef4fb}\n"
        "@media screen and (prefers-color-scheme:dark){"
        f":root{{color-scheme:dark;{dark}--paper:{PAPER['dark']};"
        "--ink:#e4e8ed;--quiet:#9aa4b0;--rule:#39414b;--faint:#272d35;--shade:#1d2a3a}}\n"
        f"{_RULES}"
    )


_RULES = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
body{background:var(--paper);color:var(--ink)}
h1{font-size:1.5rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.subtitle{color:var(--quiet);margin:.3rem 0 1.5rem;overflow-wrap:anywhere}
figure{margin:1.5rem 0;break-inside:avoid}
figcaption{color:var(--quiet);font-size:.9rem;max-width:48rem}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif;fill:var(--ink)}
svg .title{font-size:14px;font-weight:600}
svg .axis,svg .note{fill:var(--quiet)}
svg .grid{stroke:var(--faint)}
svg .edge{stroke:var(--quiet)}
svg .mark{stroke:var(--paper);stroke-width:1}
svg .series{fill:none;stroke-width:2;stroke-linejoin:round}
svg .band{opacity:.18}
svg .interval{fill:none;stroke-width:1.5;opacity:.75}
svg .over{stroke:var(--ink);opacity:1}
svg .front{fill:none;stroke:var(--quiet);stroke-width:1.5}
svg .tail{stroke-dasharray:3 4}
svg .ring{fill:none;stroke:var(--ink);stroke-width:1.75}
svg .reference{stroke:var(--red);stroke-width:1.25;stroke-dasharray:6 4}
svg .leader{stroke:var(--quiet);stroke-width:.75}
svg .name{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.25rem .6rem;vertical-align:top;border-bottom:1px solid var(--rule)}
th{color:var(--quiet);font-weight:600;white-space:nowrap}
th.number,td.number{text-align:right}
td.number{font-variant-numeric:tabular-nums;white-space:nowrap}
td.bars{min-width:8rem;width:20%;vertical-align:middle}
.bar{height:.7rem;border-radius:.2rem;min-width:1px}
.chosen td{background:var(--shade);font-weight:600}
.bar,.chosen td,svg{print-color-adjust:exact;-webkit-print-color-adjust:exact}
tr{break-inside:avoid}
@media print{body{max-width:none;margin:0;font-size:11px}h2{break-after:avoid}}
"""
