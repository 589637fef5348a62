"""One self-contained HTML file: values in, text out.

Nothing in it is fetched from anywhere: plotly.js is inlined once, and a policy in the page forbids
the browser every connection. Charts are drawn in the reader's light or dark colours.
"""

from __future__ import annotations

import json
from pathlib import Path

from qviz import report_parts as parts
from qviz import report_proof as proof
from qviz import report_tuned as tuned
from qviz import report_words as words
from qviz.errors import MissingExtraError
from qviz.figures import CONFIG
from qviz.report_content import Content
from qviz.report_html import items, paragraph, text

try:
    from plotly.offline import get_plotlyjs
except ImportError as error:
    raise MissingExtraError(
        "report", "plotly is not installed", "Install it: pip install 'qviz[app]'"
    ) from error

#: What the browser may load: what is in the file, nothing else.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; form-action 'none'; base-uri 'none'"
)
FOOTER = "Made by qviz. This file loads nothing from anywhere and sends nothing."
#: Sections by name, in order, with their titles.
SECTIONS = {
    "recipe": ("Recipe", parts.recipe),
    "calibrators": ("Calibrators", parts.calibrators),
    "coverage": ("Coverage", parts.coverage),
    "ranges": ("Ranges", parts.ranges),
    "sensitivity": ("Sensitivity", parts.sensitivity),
    "search": ("Partial quantization", parts.search),
    tuned.NAME: (tuned.TITLE, tuned.section),
    proof.NAME: (proof.TITLE, proof.certificate),
    "provenance": ("Provenance", parts.provenance),
}


def html(content: Content) -> str:
    """The whole page."""
    sections = {name: make(content) for name, (_, make) in SECTIONS.items()}
    links = "".join(
        f'<a href="#{name}">{text(SECTIONS[name][0])}</a>'
        for name, body in sections.items()
        if body
    )
    warnings = ""
    if content.warnings:
        listed = items(content.warnings)
        warnings = f'<div class="warnings"><b>Take care</b>{listed}</div>'
    body = "\n".join(body for body in sections.values() if body)
    config = json.dumps(CONFIG | {"responsive": True})
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">
<title>{text(words.title(content))}</title>
<link rel="icon" href="data:,">
<style>
{_shipped("report.css")}
</style>
</head>
<body>
<header>
<h1>{text(words.title(content))}</h1>
{paragraph(words.headline(content.measured, content.metric), "lead")}
{warnings}
{parts.cards(content)}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
<footer>{paragraph(FOOTER)}</footer>
<noscript><p>The charts need JavaScript; every number is in the tables as well.</p></noscript>
<script type="application/json" id="config">{config}</script>
<script>{get_plotlyjs()}</script>
<script>
{_shipped("report.js")}
</script>
</body>
</html>
"""


def _shipped(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
