"""Presets: many ops left in float, or put back to int8, with one click."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from qviz.digits import percent
from qviz.errors import QvizError
from qviz.ui import plan_know
from qviz.ui.plan_choice import Choice, first_and_last, matching, of_type, to_target, worst_first
from qviz.ui.plan_state import Known, PlanState
from qviz.ui.workspace import Workspace

Left = frozenset[str]


def draw(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    """The presets, for a popover."""
    _by_sensitivity(workspace, state, choice, known)
    with _row("type"):
        types = sorted({choice.graph.ops[op].type for op in choice.operands})
        kind = st.selectbox("Type", types, key="plan_type") or ""
        _both(workspace, choice, of_type(choice, kind), "type", f"all {kind}")
    with _row("pattern"):
        pattern = st.text_input(
            "Name pattern",
            key="plan_pattern",
            placeholder="blocks.0.*",
            help="Part of a name, a glob with * and ?, or a regular expression",
        )
        regex = st.checkbox("Regular expression", key="plan_regex")
    try:
        found = matching(choice, pattern, regex=regex)
    except QvizError as error:
        st.error(str(error))
        found = ()
    with _row("found"):
        _both(workspace, choice, found, "pattern", pattern)
        if pattern:
            st.caption(f"{len(found)} of {len(choice.operands)} ops fit")
    with _row("ends"):
        ends = choice.whole(first_and_last(choice))
        _button(
            workspace,
            "First and last to float",
            "plan_preset_ends",
            lambda left: left | ends,
            "first and last to float",
            disabled=ends <= choice.left,
        )
        _button(
            workspace,
            "Clear: all to int8",
            "plan_preset_clear",
            lambda _: frozenset(),
            "all to int8",
            disabled=not choice.left,
        )


def _by_sensitivity(workspace: Workspace, state: PlanState, choice: Choice, known: Known) -> None:
    ranking = worst_first(choice, known.effects.of)
    with _row("worst"):
        # bounds that change would begin another widget, with another value
        most = len(choice.operands)
        count = int(st.number_input("Worst ops", 1, most, min(3, most), key="plan_k", width=130))
        worst = choice.whole(ranking[:count])
        _button(
            workspace,
            f"Only the worst {count} in float",
            "plan_preset_worst",
            lambda _: worst,
            f"only the worst {count} in float",
            disabled=not ranking,
        )
    reach = None
    anchor = plan_know.anchor(workspace, state, choice)
    if anchor is not None and ranking:
        reach = to_target(choice, known.effects.of, anchor, state.target)
    enough = choice.whole(reach or ())
    said = "" if reach is None else f" ({len(reach)} ops)"
    _button(
        workspace,
        f"Worst until the estimated drop is {percent(state.target)}{said}",
        "plan_preset_target",
        lambda _: enough,
        f"worst {len(reach or ())} in float, estimated to meet {percent(state.target)}",
        disabled=reach is None,
        help="As few of the worst ops as are predicted to meet the target; the search measures",
    )


def _row(name: str) -> DeltaGenerator:
    return st.container(horizontal=True, vertical_alignment="bottom", key=f"plan_preset_row_{name}")


def _both(workspace: Workspace, choice: Choice, ops: tuple[str, ...], key: str, what: str) -> None:
    own = choice.whole(ops)
    _button(
        workspace,
        "To float",
        f"plan_preset_{key}_float",
        lambda left: left | own,
        f"{what} to float",
        disabled=own <= choice.left,
    )
    _button(
        workspace,
        "To int8",
        f"plan_preset_{key}_int8",
        lambda left: left - own,
        f"{what} to int8",
        disabled=not own & choice.left,
    )


def _button(
    workspace: Workspace,
    text: str,
    key: str,
    change: Callable[[Left], Left],
    label: str,
    *,
    disabled: bool = False,
    help: str | None = None,
) -> None:
    st.button(
        text,
        key=key,
        on_click=_apply,
        args=(workspace, change, label),
        disabled=disabled,
        help=help,
    )


def _apply(workspace: Workspace, change: Callable[[Left], Left], label: str) -> None:
    # of the draft as it is now: a tick may have come in since the button was drawn
    now = Choice.of(workspace.recipe, workspace.opened.session.graph)
    workspace.apply(now.with_left(change(now.left)).recipe, label)
