"""An explanation as one HTML file that needs no network: a bar for each node, a table below."""

from __future__ import annotations

from html import escape

from mlserve_cli.explain.explanation import Explanation
from mlserve_cli.explain.nodes import Kind

_COLOURS: dict[Kind, str] = {
    "int8": "#2a7f62",
    "float": "#c8553d",
    "conversion": "#e0a458",
    "other": "#8a94a6",
}
_MEANINGS: dict[Kind, str] = {
    "int8": "convolutions and products in int8",
    "float": "convolutions and products in float",
    "conversion": "between int8 and float",
    "other": "all else",
}

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.whole { display: flex; height: 1.6rem; border-radius: .3rem; overflow: hidden }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem .6rem; vertical-align: top }
th, td { border-bottom: 1px solid #8884 }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.name { overflow-wrap: anywhere } .bar { height: .7rem; border-radius: .2rem; min-width: 1px }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem }
.key { margin: 0 .4rem 0 1rem }
"""


def page(found: Explanation) -> str:
    """The whole document."""
    manifest = found.package.manifest
    title = f"{manifest.name} {manifest.version}, {manifest.variant}"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f"<p>Batch {found.batch}: {found.profile.total_us:,.0f} µs in {len(found.profile.nodes)} "
        f"nodes, the median of {found.profile.runs} runs. Digest {escape(manifest.digest)}.</p>",
        _whole(found),
        "<h2>Nodes, as they run</h2>",
        _nodes(found),
    ]
    if found.deviations:
        parts += ["<h2>Difference from the parent</h2>", _deviations(found)]
    return "\n".join(parts)


def _whole(found: Explanation) -> str:
    shares = {kind: found.profile.share(kind) for kind in _COLOURS}
    bar = "".join(
        f'<div style="width:{share:.2%};background:{_COLOURS[kind]}"></div>'
        for kind, share in shares.items()
    )
    legend = "".join(
        f'<span class=key style="background:{_COLOURS[kind]}"></span>{_MEANINGS[kind]} {share:.0%}'
        for kind, share in shares.items()
    )
    return f"<div class=whole>{bar}</div><p>{legend}</p>"


def _nodes(found: Explanation) -> str:
    longest = max((node.microseconds for node in found.profile.nodes), default=0.0) or 1.0
    lines = []
    for node in found.profile.nodes:
        width = 100 * node.microseconds / longest
        origin = found.origins[node.name]
        lines.append(
            f"<tr><td class=name>{escape(origin.node or node.name)}<td>{escape(node.operator)}"
            f"<td>{node.kind}<td class=number>{node.microseconds:,.1f}"
            f'<td style="width:20%"><div class=bar style="width:{width:.1f}%;'
            f'background:{_COLOURS[node.kind]}"></div><td>{escape(origin.why_float)}'
        )
    head = "<tr><th>node<th>type<th>kind<th>µs<th><th>why in float"
    return f"<table>{head}{''.join(lines)}</table>"


def _deviations(found: Explanation) -> str:
    lines = []
    for item in found.deviations:
        width = min(100.0, 100 * item.relative_rms)
        lines.append(
            f"<tr><td class=name>{escape(item.tensor)}<td>{escape(item.operator)}"
            f"<td class=number>{item.relative_rms:.2%}<td class=number>{item.decibels:.1f} dB"
            f'<td style="width:25%"><div class=bar style="width:{width:.1f}%;background:#c8553d">'
            "</div>"
        )
    head = "<tr><th>tensor<th>made by<th>relative error<th>signal to noise<th>"
    return f"<table>{head}{''.join(lines)}</table>"
