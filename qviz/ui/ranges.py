"""The parts of the Ranges page: choose an operand, move its limits, try a calibrator's range."""

from __future__ import annotations

import math
from collections.abc import Iterable

import streamlit as st

from qviz.errors import QvizError
from qviz.figures_ranges import channel_figure, range_figure, small_figure
from qviz.graph import Operand
from qviz.tables_ranges import ranges_table
from qviz.ui import ranges_view as views
from qviz.ui import ranges_words as words
from qviz.ui import undo, visit
from qviz.ui.chart import chart
from qviz.ui.ranges_view import View
from qviz.ui.workspace import Workspace

#: Tensors that are set side by side at most.
MOST = 4


def toolbar(workspace: Workspace, op: str) -> Operand:
    """Previous and next op, the operand of this one, undo and redo; returns the chosen operand."""
    operands = {
        o.name.removeprefix(f"{op}/"): o for o in workspace.opened.session.graph.ops[op].operands
    }
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for label, by, key in (("Previous op", -1, "P"), ("Next op", 1, "N")):
            st.button(
                label,
                key=f"ranges_step_{by}",
                shortcut=key,
                on_click=visit.step,
                args=(workspace, by),
            )
        # the choice "weight" is kept from op to op where there is one
        if st.session_state.get("ranges_operand") not in operands:
            st.session_state["ranges_operand"] = next(iter(operands))
        if len(operands) > 1:
            st.segmented_control("Operand", list(operands), key="ranges_operand", required=True)
        chosen = operands[st.session_state["ranges_operand"]]
        undo.buttons(workspace, key="ranges")
        st.toggle("Log counts", value=True, key="ranges_log", persist_state="session")
    return chosen


def diagnosis(workspace: Workspace, shown: View) -> None:
    """What is special about the tensor, with a button where another range is the remedy."""
    for i, finding in enumerate(views.findings(workspace.opened, shown)):
        text, action = st.columns([5, 1], vertical_alignment="center", border=False)
        text.info(f"{finding.text} {finding.remedy}")
        if finding.calibrator is None:
            continue
        used = shown.current is not None and shown.current.calibrator == finding.calibrator
        action.button(
            f"{finding.calibrator} is in use" if used else f"Use {finding.calibrator}",
            key=f"ranges_remedy_{i}",
            disabled=used,
            on_click=_use,
            args=(workspace, finding.calibrator, (shown.tensor,)),
        )


def picture(workspace: Workspace, shown: View) -> None:
    """The histogram with every candidate, its limits to be dragged."""

    def moved(lo: float, hi: float) -> None:
        _set(workspace, shown, lo, hi)

    if message := st.session_state.pop("ranges_error", None):
        st.error(message)
    figure = range_figure(
        shown.histogram,
        shown.shown,
        selected=None if shown.current is None else shown.current.calibrator,
        revision=shown.operand.name,
        log=bool(st.session_state.get("ranges_log", True)),
    )
    chart(
        figure,
        key="ranges_histogram",
        alt=words.picture(shown),
        limits=views.limits(workspace.opened, shown),
        on_range=moved,
    )
    st.caption(words.values(shown.histogram), help=words.HOW)


def inputs(workspace: Workspace, shown: View) -> None:
    """The limits as numbers, and the way back to the calibrator's range."""
    if shown.current is None:
        return
    both = not shown.grid.symmetric and shown.histogram.min < 0
    ends = {"lo": shown.current.range.lo, "hi": shown.current.range.hi}
    names = {"hi": "Limit (amax)" if shown.grid.symmetric else "Upper limit"}
    names = {"lo": "Lower limit", **names} if both else names
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for end, name in names.items():
            key = f"ranges_{end}_{shown.tensor}"
            st.session_state[key] = ends[end]  # the draft decides, whoever changed it
            st.number_input(
                name,
                key=key,
                min_value=None if end == "lo" else 0.0,
                max_value=0.0 if end == "lo" else None,
                step=_step(max(map(abs, ends.values()))),
                format="%.5g",
                on_change=_typed,
                args=(workspace, shown),
                help="In units of the tensor",
            )
        usual = views.usual(workspace.opened, workspace.recipe, shown.tensor, shown.grid)
        if usual is not None:
            st.button(
                f"Reset to {usual}",
                key="ranges_reset",
                disabled=shown.current.calibrator == usual and shown.current in shown.candidates,
                on_click=_use,
                args=(workspace, usual, (shown.tensor,)),
            )


def table(workspace: Workspace, shown: View) -> None:
    """Every candidate with what it costs; one is chosen for this tensor, for all, or for some."""
    if not shown.candidates or shown.best is None:
        return
    rows = ranges_table(shown.shown, None if shown.current is None else shown.current.calibrator)
    specs = [one.calibrator for one in shown.candidates]
    if not st.session_state.get("ranges_calibrator"):
        st.session_state["ranges_calibrator"] = shown.best.calibrator

    def picked() -> None:
        chosen = st.session_state["ranges_table"].selection.rows
        if chosen and chosen[0] < len(specs):
            st.session_state["ranges_calibrator"] = specs[chosen[0]]

    st.dataframe(
        rows,
        hide_index=True,
        column_config=words.COLUMNS,
        on_select=picked,
        selection_mode="single-row",
        key="ranges_table",
        height="content",
        alt=f"Candidate ranges of {shown.tensor}",
    )
    graph = workspace.opened.session.graph
    kind = graph.ops[shown.operand.op].type
    alike = views.like(workspace.opened, shown.operand)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Range of",
            list(dict.fromkeys([*specs, st.session_state["ranges_calibrator"]])),
            key="ranges_calibrator",
            accept_new_options=True,
            width=220,
            help="One of the table, or type another: percentile:99.95",
        )
        for label, key, tensors, what in (
            ("Use for this tensor", "this", (shown.tensor,), f"({shown.tensor})"),
            (f"Use for the {len(alike)} tensors that {kind} reads", "alike", alike, f"({kind})"),
        ):
            st.button(
                label,
                key=f"ranges_use_{key}",
                on_click=_use,
                args=(workspace, chosen, tensors, what),
            )
        st.button(
            f"Use for all {len(graph.observed)} tensors",
            key="ranges_use_all",
            on_click=_use_everywhere,
            args=(workspace, chosen),
            help="Replaces every range of the draft; what is float stays float",
        )


def channels(shown: View) -> None:
    """The limits of every channel as a strip."""
    h = shown.histogram
    if h.channel_min is None or h.channel_max is None:
        st.caption(words.NO_CHANNELS)
        return
    st.caption(words.CHANNELS)
    chart(
        channel_figure(h.channel_min, h.channel_max, shown.current, revision=shown.operand.name),
        key="ranges_channels",
        alt=f"Smallest and largest value of each of the {h.channel_min.numel()} channels of "
        f"{shown.tensor}",
    )


def beside(workspace: Workspace, shown: View) -> None:
    """Other tensors, to be seen with this one."""
    graph = workspace.opened.session.graph
    readers = {o.tensor: o for o in reversed(graph.operands.values()) if o.kind == "activation"}
    names = st.multiselect(
        words.BESIDE,
        [name for name in graph.observed if name != shown.tensor],
        key="ranges_beside",
        max_selections=MOST,
        filter_mode="fuzzy",
    )
    columns = st.columns(2)
    for i, name in enumerate(names):
        other = views.view(workspace.opened, workspace.recipe, readers[name])
        with columns[i % 2]:
            st.markdown(f"`{name}`")
            chart(
                small_figure(other.histogram, other.current),
                key=f"ranges_beside_{i}",
                alt=words.picture(other),
            )
            if other.current is not None:
                st.caption(words.in_use(other.current))


def _set(workspace: Workspace, shown: View, lo: float, hi: float) -> None:
    """Take a range that a person chose into the draft."""
    try:
        made = views.custom(shown.histogram, lo, hi, shown.grid)
    except QvizError as error:
        st.session_state["ranges_error"] = str(error)
        return
    ends = made.range.lo, made.range.hi
    recipe = workspace.recipe.with_range(shown.tensor, *ends, "fixed")
    workspace.apply(recipe, words.custom_label(shown, *ends))


def _typed(workspace: Workspace, shown: View) -> None:
    """Take the numbers in the fields."""
    assert shown.current is not None  # there are no fields otherwise
    hi = st.session_state[f"ranges_hi_{shown.tensor}"]
    lo = st.session_state.get(f"ranges_lo_{shown.tensor}", shown.current.range.lo)
    if hi is None or lo is None:
        return
    before = shown.current.range
    if (f"{lo:.5g}", f"{hi:.5g}") == (f"{before.lo:.5g}", f"{before.hi:.5g}"):
        return  # a field hands back what it shows, which is rounded: nobody has typed
    _set(workspace, shown, -hi if shown.grid.symmetric else lo, hi)


def _use(
    workspace: Workspace, calibrator: str, tensors: Iterable[str], what: str | None = None
) -> None:
    """Take one calibrator's ranges of some tensors into the draft."""
    names = tuple(tensors)
    try:
        recipe = views.with_calibrator(workspace.opened, workspace.recipe, calibrator, names)
    except QvizError as error:
        st.session_state["ranges_error"] = str(error)
        return
    workspace.apply(recipe, words.many(calibrator, len(names), what or f"({names[0]})"))


def _use_everywhere(workspace: Workspace, calibrator: str) -> None:
    """Take one calibrator's ranges of all tensors into the draft."""
    try:
        recipe = views.with_everywhere(workspace.opened, workspace.recipe, calibrator)
    except QvizError as error:
        st.session_state["ranges_error"] = str(error)
        return
    workspace.apply(recipe, words.many(calibrator, len(recipe.ranges), ""))


def _step(amax: float) -> float:
    """What the arrows of a number field move it by: a hundredth of its power of ten."""
    return float(10.0 ** (math.floor(math.log10(amax)) - 2)) if amax > 0 else 0.01
