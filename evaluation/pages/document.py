"""A page: one HTML file, light and dark, that asks for nothing from outside; and a picture: one SVG file for a document.

Every text goes through `shown` and so cannot become markup, a terminal's escape sequence or a change of the writing direction.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = 6
"""Number of colours of series; a seventh has the first again."""

_LIGHT = (
    "--back:#fff;--ink:#1f2328;--soft:#59636e;--line:#d8dee4;--pane:#f6f8fa;--alarm:#cf222e;"
    "--s0:#0969da;--s1:#bc4c00;--s2:#1a7f37;--s3:#8250df;--s4:#bf3989;--s5:#57606a"
)
_DARK = (
    "--back:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#30363d;--pane:#161b22;--alarm:#ff7b72;"
    "--s0:#4493f8;--s1:#f0883e;--s2:#3fb950;--s3:#ab7df8;--s4:#db61a2;--s5:#9198a1"
)
_MARKS = (
    "svg{font:12px system-ui,sans-serif}text{fill:var(--ink)}.soft{fill:var(--soft)}.alarm{fill:var(--alarm)}"
    ".grid{stroke:var(--line)}.zero{stroke:var(--soft)}"
)
_STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}{_MARKS}"
    "body{background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;"
    "padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.2rem;margin:2.5rem 0 .5rem}h3{font-size:1rem;margin:0 0 .3rem}"
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1.5rem 2rem;margin-top:1.2rem}"
    "figure{margin:0;min-width:0;break-inside:avoid}figcaption,.soft{color:var(--soft);font-size:14px}"
    "svg{width:100%;height:auto}details{font-size:14px}summary{cursor:pointer;color:var(--soft)}"
    "table{border-collapse:collapse;font-size:14px}caption{text-align:left;color:var(--soft)}"
    "th,td{padding:.15rem .7rem .15rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}"
    "th[scope=row]{font-weight:400;min-width:12rem}th{overflow-wrap:anywhere;max-width:15rem}"
    "td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
    ".table{overflow-x:auto}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px;background:var(--pane);"
    "padding:.5rem .7rem;margin:.3rem 0}.turn img,.question img{border:1px solid var(--line);margin:.2rem .4rem .2rem 0}"
    "article{margin:1rem 0 2rem;break-inside:avoid-page}@media print{body{margin:0;max-width:none;font-size:12px}"
    "a{color:inherit}.figures{grid-template-columns:1fr 1fr}}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_NUMBER = re.compile(r"[-+–]?[\d.,]*\d.*|–")
_GAP, _HEAD = 24, 26


@dataclass(frozen=True, slots=True)
class Plot:
    """The parts of a plot in SVG, `width` × `height`, with what a reader without it needs: a description and a table."""

    title: str
    parts: tuple[str, ...]
    width: float
    height: float
    caption: str = ""
    description: str = ""
    table: tuple[Sequence[str], ...] = ()

    def __str__(self) -> str:
        """The plot as a `<figure>` of a page."""
        marks = f"<title>{shown(self.title)}</title><desc>{shown(self.description)}</desc>{''.join(self.parts)}"
        svg = f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img">{marks}</svg>'
        values = f"<details><summary>Values</summary>{table(self.table, self.title)}</details>" if self.table else ""
        caption = f"<figcaption>{shown(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure><h3>{shown(self.title)}</h3>{svg}{caption}{values}</figure>"


def page(title: str, sections: Sequence[str], lead: str = "") -> str:
    """An HTML document of sections, which are HTML; `lead` is a sentence below its title."""
    below = f'<p class="soft">{shown(lead)}</p>' if lead else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{shown(title)}</title><style>{_STYLE}</style>'
        f"</head><body><main><h1>{shown(title)}</h1>{below}{''.join(sections)}</main></body></html>\n"
    )


def section(title: str, parts: Sequence[str]) -> str:
    """A part of a page under a heading; nothing if it has no content."""
    return f"<section><h2>{shown(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def figures(plots: Sequence[Plot]) -> str:
    """Plots side by side, if the window is wide enough."""
    return f'<div class="figures">{"".join(map(str, plots))}</div>' if plots else ""


def table(lines: Sequence[Sequence[str]], name: str) -> str:
    """A table; its first line is the header, and the first cell of each further one is that line's. `name` says what it is."""
    if not lines:
        return ""
    header, *body = lines
    head = "".join(f'<th scope="col">{shown(cell)}</th>' for cell in header)
    rows = "".join(
        f'<tr><th scope="row">{shown(line[0])}</th>'
        + "".join(f'<td class="number">{shown(c)}</td>' if _NUMBER.fullmatch(c) else f"<td>{shown(c)}</td>" for c in line[1:])
        + "</tr>"
        for line in body
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="table" role="region" tabindex="0" aria-label="{shown(name)}">{whole}</div>'


def listed(lines: Sequence[str]) -> str:
    """A list of texts."""
    return f"<ul>{''.join(f'<li>{shown(line)}</li>' for line in lines)}</ul>" if lines else ""


def picture(plots: Sequence[Plot], columns: int = 2) -> str:
    """An SVG document of plots in columns, on a background of its own; captions are left to the document that shows it."""
    width = max(plot.width for plot in plots)
    rows = [plots[begin : begin + columns] for begin in range(0, len(plots), columns)]
    parts, top = [], _GAP / 2
    for row in rows:
        for number, plot in enumerate(row):
            left = _GAP + number * (width + _GAP)
            parts.append(f'<text x="{left:.0f}" y="{top + 14:.0f}" font-size="14" font-weight="600">{shown(plot.title)}</text>')
            marks = "".join(plot.parts)
            parts.append(
                f'<svg x="{left:.0f}" y="{top + _HEAD:.0f}" width="{plot.width:.0f}" height="{plot.height:.0f}">{marks}</svg>'
            )
        top += _HEAD + max(plot.height for plot in row) + _GAP
    across = _GAP + min(columns, len(plots)) * (width + _GAP)
    described = " ".join(f"{plot.title}: {plot.description}" for plot in plots)
    style = f":root{{{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}{_MARKS}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across:.0f} {top:.0f}" width="{across:.0f}" height="{top:.0f}" '
        f'role="img"><title>{shown("; ".join(plot.title for plot in plots))}</title><desc>{shown(described)}</desc>'
        f'<style>{style}</style><rect width="100%" height="100%" fill="var(--back)"/>{"".join(parts)}</svg>\n'
    )


def shown(text: str) -> str:
    """A text as HTML and XML show it: markup is escaped, and what would be invisible or act is written as its number."""
    return html.escape(_HIDDEN.sub(lambda match: f"\\x{ord(match[0]):02x}", text), quote=True)
