"""Compare two variants: numbers with the interval of their difference, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from qviz.digits import number, percent, scored, span
from qviz.samples import sample
from qviz.ui import jobs_view
from qviz.ui.compare_result import (
    Comparison,
    Pair,
    Variant,
    in_words,
    inputs_at,
    picture,
    work,
)
from qviz.ui.workspace import Workspace

#: Samples shown at a time.
PAGE = 24
_NAMES = {"a and b": "A and B", "a and float": "A and float", "b and float": "B and float"}


def section(workspace: Workspace, find: Callable[[], dict[str, Variant]]) -> None:
    """Choice of two variants, the button, and the result.

    Args:
        workspace: where the job goes.
        find: gives the variants by name; asked again on a click, since the draft may have changed.
    """
    variants = find()
    names = list(variants)
    job = workspace.jobs.get("compare")
    running = job is not None and job.snapshot().active
    with st.container(horizontal=True, vertical_alignment="bottom", key="compare_row"):
        one = st.selectbox("A", names, index=0, key="compare_a", width=220)
        other = st.selectbox("B", names, index=min(1, len(names) - 1), key="compare_b", width=220)
        if st.button(
            "Compare",
            key="compare_go",
            disabled=running or one == other,
            help="Both on all evaluation samples",
            on_click=_start,
            args=(workspace, find, one, other),
        ):
            st.rerun()
    if one == other:
        st.caption("Choose two different variants.")
    if job is None:
        return
    shown = job.snapshot()
    if shown.active:
        jobs_view.progress(job, key="compare")
        return
    jobs_view.failure(shown)
    if isinstance(shown.result, Comparison):
        result(workspace, shown.result, variants)


def _start(
    workspace: Workspace, find: Callable[[], dict[str, Variant]], one: str, other: str
) -> None:
    now = find()
    if one in now and other in now:
        title = f"Compare {one} and {other}"
        session = workspace.opened.session
        workspace.submit("compare", title, work(session, now[one], now[other]))


def result(workspace: Workspace, found: Comparison, variants: dict[str, Variant]) -> None:
    """What a comparison found."""
    metric = found.of_a.metric
    with st.container(horizontal=True, key="compare_numbers"):
        for letter, variant, one in (("A", found.a, found.of_a), ("B", found.b, found.of_b)):
            now = variants.get(variant.name)
            changed = now is not None and now.recipe != variant.recipe
            with st.container(width=250):
                st.metric(
                    f"{letter}: {variant.name}{' (as it was)' if changed else ''}",
                    scored(one.value, metric),
                )
                st.caption(
                    f"{metric.name}; {percent(one.change, signed=True)} from float "
                    f"(95 %: {span(one.interval)}); {len(one.flips)} answers differ from float's"
                )
        with st.container(width=300):
            st.metric("From A to B", percent(found.change, signed=True))
            st.caption(_sure(found))
    st.caption(f"Both measured on the same {found.of_a.scores.count:,} samples.")
    _answers(workspace, found)


def _sure(found: Comparison) -> str:
    text = f"95 % interval of the paired difference: {span(found.interval)}"
    if found.p_value is not None:
        text += f"; McNemar p {number(found.p_value)}"
    known = found.interval.low > 0 or found.interval.high < 0
    return text + (": a real difference." if known else ": no difference that these samples show.")


def _answers(workspace: Workspace, found: Comparison) -> None:
    classify = found.answers.a is not None
    counts: dict[Pair, tuple[int, ...]] = {
        "a and b": found.differing("a and b"),
        "a and float": found.differing("a and float"),
        "b and float": found.differing("b and float"),
    }
    st.markdown("**Answers that differ**" if classify else "**Outputs that differ most**")
    chosen: Pair = (
        st.segmented_control(
            "Between",
            list(counts),
            default="a and b",
            required=True,
            key="compare_pair",
            format_func=lambda pair: f"{_NAMES[pair]} ({len(counts[pair]):,})",
            label_visibility="collapsed",
        )
        or "a and b"
    )
    cases = counts[chosen]
    if not cases:
        st.success(f"{_NAMES[chosen]} give the same answer on every sample.")
        return
    pages = -(-len(cases) // PAGE)
    page = 1
    if pages > 1:
        page = int(
            st.number_input(f"Page (of {pages})", 1, pages, 1, key="compare_page", width=140)
        )
    _cases(workspace, found, cases[(page - 1) * PAGE : page * PAGE])


def _cases(workspace: Workspace, found: Comparison, cases: Sequence[int]) -> None:
    data = workspace.opened.session.evaluation_data
    if data is None:
        return
    classes = _classes(workspace)
    inputs = inputs_at(data, cases)
    pictures = {i: p for i, x in inputs.items() if (p := picture(x)) is not None}
    rows = [_row(found, i, classes) for i in cases]
    if len(pictures) == len(cases):
        with st.container(horizontal=True, key="compare_pictures", gap="small"):
            for i, row in zip(cases, rows, strict=True):
                with st.container(width=136):
                    st.image(pictures[i], width=112, alt=f"Sample {i}: {', '.join(row.values())}")
                    st.caption(_lines(i, row))
        return
    table = pd.DataFrame(
        [
            {"sample": i, **row, "input": in_words(inputs[i])}
            for i, row in zip(cases, rows, strict=True)
        ]
    )
    st.dataframe(table, hide_index=True, alt="Samples on which the answers differ")


def _row(found: Comparison, i: int, classes: tuple[str, ...]) -> dict[str, str]:
    """What was right and what each answered, in words."""
    answers = found.answers
    if answers.a is None or answers.b is None or answers.reference is None:
        return {"A from B": number(float(answers.distance[i]))} | {
            "A from float": number(float(answers.distance_a[i])),
            "B from float": number(float(answers.distance_b[i])),
        }

    def named(index: int) -> str:
        return classes[index] if 0 <= index < len(classes) else f"class {index}"

    right = None if answers.labels is None else int(answers.labels[i])
    row = {} if right is None else {"right": named(right)}
    for who, values in (("A", answers.a), ("B", answers.b), ("float", answers.reference)):
        said = int(values[i])
        row[who] = named(said) + ("" if right is None else " ✓" if said == right else " ✗")
    return row


def _lines(i: int, row: dict[str, str]) -> str:
    lines = [f"#{i}" + (f" **{row['right']}**" if "right" in row else "")]
    lines += [f"{who}: {said}" for who, said in row.items() if who != "right"]
    return "  \n".join(lines)


def _classes(workspace: Workspace) -> tuple[str, ...]:
    """Names of the classes, if the model is a sample."""
    model = str(workspace.opened.start.model)
    return sample(model).classes if model.startswith("sample:") else ()
