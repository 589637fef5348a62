"""Tables and captions as the HTML that a notebook cell shows: small, plain, in the page's colours.

No style sheet comes with it: Jupyter, VS Code and Colab style a table themselves, light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

#: Rows of a table that are shown; an output stays small whatever the model.
MOST_ROWS = 40

#: What a column of ``qviz.tables`` is called above a table; the others are called by their name.
LABELS = {
    "best": "best",
    "best_calibrator": "best candidate",
    "change_percent": "change from float %",
    "clipped_percent": "clipped %",
    "drop_percent": "drop measured %",
    "float_macs_percent": "MACs in float %",
    "hi": "to",
    "lo": "from",
    "macs": "MACs per sample",
    "mse": "squared error, expected",
    "not_finite": "NaN or Inf",
    "ops_in_float": "ops in float",
    "predicted_percent": "drop predicted %",
    "read_by": "read as int8 by",
    "shape": "output per sample",
    "share_percent": "share so far %",
    "sqnr_db": "SQNR dB, expected",
    "tensors_won": "tensors with least error",
    "value": "metric",
    "zeros_percent": "zeros %",
}


@dataclass(frozen=True)
class Table:
    """A table of a cell's output.

    Attributes:
        frame: what it shows; its columns are renamed by ``LABELS``.
        code: the expression that gives the whole table.
    """

    frame: pd.DataFrame
    code: str = ""


@dataclass(frozen=True)
class View:
    """A value as a person sees it.

    Attributes:
        text: one line that says what it is.
        notes: remarks; what stands between backticks is code.
        tables: from top to bottom.
        figure: makes the figure, None if there is none. Only called where a figure can be seen.
    """

    text: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figure: Callable[[], Any] | None = None


def page(text: str, notes: Sequence[str] = (), tables: Sequence[Table] = ()) -> str:
    """A caption, remarks below it, and tables."""
    lines = [f"<p><b>{escape(text)}</b></p>"]
    lines += [f"<p>{_with_code(note)}</p>" for note in notes]
    return "\n".join([*lines, *(html_table(table) for table in tables)])


def html_table(table: Table) -> str:
    """A table of at most ``MOST_ROWS`` rows, all text escaped."""
    frame = table.frame.head(MOST_ROWS)
    columns = list(_columns(frame))
    head = "".join(_cell("th", label, style) for label, style, _ in columns)
    body = zip(*(_cells(texts, style) for _, style, texts in columns), strict=True)
    rows = "".join(f"<tr>{''.join(cells)}</tr>\n" for cells in body)
    html = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>"
    if left := len(table.frame) - len(frame):
        cure = f": <code>{escape(table.code)}</code> has all" if table.code else ""
        html += f"\n<p>and {left:,} more rows{cure}</p>"
    return f'<div style="max-height: 28em; overflow: auto">\n{html}\n</div>'


def bar(share: float) -> str:
    """A horizontal bar, from 0 to 1 of its room."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        '<div style="width: 8em"><div style="height: 0.7em; background: #56B4E9; '
        f'width: {width:.1f}%"></div></div>'
    )


def _columns(frame: pd.DataFrame) -> Iterator[tuple[str, str, list[str]]]:
    """Label, style and texts of each column; the two limits of an interval become one column."""
    names = [str(name) for name in frame.columns]
    for before, name, after in zip(["", *names], names, [*names[1:], ""], strict=False):
        if _upper(before) == name:
            continue
        texts = [_text(value, name) for value in frame[name]]
        if _upper(name) == after:
            uppers = [_text(value, after) for value in frame[after]]
            pairs = zip(texts, uppers, strict=True)
            spans = [f"{low} to {high}" if low else "" for low, high in pairs]
            yield "95 % interval", "text-align: left; white-space: nowrap", spans
        else:
            side = "right" if frame[name].dtype.kind in "iuf" else "left"
            yield LABELS.get(name, name), f"text-align: {side}", texts


def _upper(name: str) -> str:
    """The column with the upper limits, of one with lower limits."""
    words = name.split("_")
    return "_".join("high" if word == "low" else word for word in words) if "low" in words else "-"


def _cells(texts: Sequence[str], style: str) -> list[str]:
    return [_cell("td", text, style) for text in texts]


def _cell(tag: str, text: str, style: str) -> str:
    return f'<{tag} style="{style}">{escape(text)}</{tag}>'


def _text(value: object, name: str) -> str:
    """A value of a column: changes with their sign, four digits of what is not whole."""
    if isinstance(value, bool):  # before int, which it is one of
        return "✓" if value else ""
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:  # not "+0" or "-0"
        return "0"
    if isinstance(value, float):
        signed = name.split("_")[0] in ("change", "drop", "low", "high", "predicted")
        return "" if math.isnan(value) else f"{value:+.3g}" if signed else f"{value:.4g}"
    return str(value)


def _with_code(note: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = escape(note).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))
