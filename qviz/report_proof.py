"""The section of a report that shows the certificate of the exported int8 model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qviz import report_certificate as words
from qviz.digits import count, percent
from qviz.report_content import Content
from qviz.report_html import card, folded, paragraph, section, table

NAME, TITLE = "certificate", "Parity certificate"


def certificate(content: Content) -> str:
    """What the exported int8 model was proven to compute, on which backends."""
    found = content.certificate
    if found is None:
        told = content.stale or "Not exported, so nothing is verified."
        return section(NAME, TITLE, paragraph(told))
    rows = words.backend_rows(found, content.metric)
    wrong = [i for i, one in enumerate(found["backends"]) if one["verdict"] == "failed"]
    return section(
        NAME,
        TITLE,
        *(paragraph(words.parity_sentence(found, name)) for name in _ran(found)),
        paragraph(words.metric_sentence(found, content.metric)),
        table(words.heads(found, content.metric), rows, marked=wrong),
        paragraph(words.tolerance_sentence(found), "soft"),
        *(paragraph(note, "soft") for note in words.notes(found)),
        paragraph(words.size_sentence(found)),
        paragraph(words.times_sentence(found)),
        folded(
            "Call by call, worst first",
            table(words.CALL_HEADS, words.call_rows(found)),
            printed=True,
        ),
        folded(
            "What was verified, where, and with which kernels",
            table(("what<", "name<", "digest<"), words.identity_rows(found))
            + paragraph(words.machine_sentence(found))
            + table(("backend<", "ops<", "kernels<", "because<"), words.kernels(found)),
            printed=True,
        ),
        tag="measured",
    )


def _ran(found: Mapping[str, Any]) -> list[str]:
    return [one["name"] for one in found["backends"] if one["verdict"] in ("passed", "failed")]


def cards(found: Mapping[str, Any] | None) -> list[str]:
    """The numbers of it that are looked for first."""
    if found is None:
        return [card("Int8 program", "not verified")]
    size, whole = found["int8_bytes"], found["float_bytes"]
    note = f"{percent(size / max(1, whole))} of float's {count(whole)}B"
    said = ("passed", "good") if found["passed"] else ("failed", "bad")
    return [
        card("Size of weights", f"{count(size)}B", note),
        card("Int8 program", f"parity {said[0]}", words.verdict_sentence(found), said[1]),
    ]
