"""Pieces of HTML, every text in them escaped."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

#: A space between a number and its unit.
_UNIT = re.compile(r"(?<=\d) (?=(?:%|dB|ms|[kMGT]?B|[kMGT])(?!\w))")
#: A cell longer than this may take several lines.
_LONG = 36


def text(value: object) -> str:
    """A text as HTML that shows it."""
    return html.escape(str(value))


def prose(value: object) -> str:
    """A text whose numbers are not parted from their units at the end of a line."""
    return _UNIT.sub("\u00a0", text(value))


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{prose(value)}</p>"


def section(name: str, title: str, *parts: str, tag: str = "") -> str:
    """A section; ``tag`` says measured or estimated beside its title."""
    told = f' <span class="tag {text(tag)}">{text(tag)}</span>' if tag else ""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{text(name)}">\n<h2>{text(title)}{told}</h2>\n{body}\n</section>'


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, marked: Iterable[int] = ()
) -> str:
    """A table that scrolls sideways by itself.

    Args:
        heads: titles; one that ends in "<" makes its column left-aligned.
        rows: cells as text.
        marked: numbers of the rows to stand out.
    """
    marked = set(marked)
    left = [head.endswith("<") for head in heads]

    def cells(kind: str, row: Sequence[object]) -> str:
        return "".join(
            f"<{kind}{_class(_cell(cell, side))}>{prose(cell)}</{kind}>"
            for cell, side in zip(row, left, strict=True)
        )

    lines = [
        f"<tr{_class('marked' if i in marked else '')}>{cells('td', row)}</tr>"
        for i, row in enumerate(rows)
    ]
    titles = cells("th", [head.removesuffix("<") for head in heads])
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead>\n<tbody>'
        + "\n".join(lines)
        + "</tbody></table></div>"
    )


def folded(title: str, body: str, *, printed: bool = False) -> str:
    """What is shown on a click, and on paper if ``printed``."""
    kind = _class("printed" if printed else "")
    return f"<details{kind}><summary>{text(title)}</summary>\n{body}\n</details>"


def code(value: str) -> str:
    """Text as it is, in a box that scrolls."""
    return f"<pre tabindex='0'><code>{text(value)}</code></pre>"


def items(values: Iterable[str]) -> str:
    """A list."""
    return "<ul>" + "".join(f"<li>{prose(value)}</li>" for value in values) + "</ul>"


def card(title: str, value: str, note: str = "", kind: str = "") -> str:
    """One number that is seen first."""
    small = f"<small>{prose(note)}</small>" if note else ""
    body = f"<span>{prose(title)}</span><b>{prose(value)}</b>{small}"
    return f"<div{_class(f'card {kind}'.strip())}>{body}</div>"


class Chart(Protocol):
    """A plotly figure; nothing else of it is needed."""

    def to_json(self) -> str:
        """The figure as plotly.js reads it."""


def figure(made: Chart, alt: str) -> str:
    """A chart, drawn by ``report.js``; its height is the figure's."""
    values = json.loads(made.to_json())
    values["layout"].pop("template", None)  # its colours are those of a white page
    height = values["layout"].setdefault("height", 360)
    # a text in the figure cannot end the script
    data = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="figure" role="figure" aria-label="{text(alt)}" style="height:{height:.0f}px">'
        f'<script type="application/json">{data}</script></div>'
    )


def _cell(cell: object, left: bool) -> str:
    return ("left" if left else "") + (" long" if left and len(str(cell)) > _LONG else "")


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
