"""What one method did: before and after with the interval, what changed, and what to do with it."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from qviz import reproduce
from qviz.digits import percent
from qviz.errors import QvizError
from qviz.figures_tune import changes_figure
from qviz.intervals import Interval
from qviz.recipe import Recipe
from qviz.tables_tune import Tried, changes_table, comparable, tried
from qviz.tune.methods import METHODS
from qviz.tune.remedy import fall_of
from qviz.tune.result import Tuning
from qviz.tune.step import Change
from qviz.ui import tune_words as words
from qviz.ui.chart import chart
from qviz.ui.export_words import plain
from qviz.ui.tune_now import target_of
from qviz.ui.workspace import Workspace

#: Height of a table that scrolls, in pixels.
TALL = 320


def result(workspace: Workspace, made: Tuning, *, key: str) -> None:
    """One finished method.

    Args:
        workspace: whose draft can be replaced by it.
        made: the result.
        key: unique on the page.
    """
    metric = workspace.opened.session.metric
    (one,) = tried([made.row()], higher_is_better=metric.higher_is_better)
    with st.container(border=True, key=key):
        fall = None
        if made.before is not None and made.after is not None:
            fall = fall_of(made.before, made.after, made.seed)[1]
        verdict(workspace, one, fall)
        if made.notes:
            st.markdown("\n".join(f"- {plain(note)}" for note in made.notes))
        actions(workspace, made.recipe, words.label(one), key=key)
        if made.start != workspace.recipe and made.recipe != workspace.recipe:
            st.caption(
                "The draft has changed since: this began with the draft as it was, and using it "
                "puts its recipe in the place of the present one."
            )
        changed(made.changes, key=key)
        _again(workspace, made, key=key)
        st.caption(words.record(one) + words.further(made.record))


def verdict(workspace: Workspace, one: Tried, fall: Interval | None = None) -> None:
    """What a step did, in a coloured line; noise is called noise.

    Noise in the metric is a warning where the outputs move away from float's beyond doubt.

    Args:
        workspace: whose target it stands beside.
        one: the step.
        fall: 95 % interval of the relative fall of the divergence, if it is known.
    """
    metric = workspace.opened.session.metric
    text = words.headline(one, metric, fall)
    if one.drop is not None:
        said = words.against(one.drop, target_of(workspace))
        text += f" The drop from float is {percent(one.drop)}, {said}."
    show = {"better": st.success, "worse": st.warning}.get(one.verdict, st.info)
    away = fall is not None and fall.high < 0 and one.verdict != "better"
    (st.warning if away else show)(text)


def actions(
    workspace: Workspace,
    recipe: Recipe,
    label: str,
    *,
    key: str,
    live: bool = False,
) -> None:
    """Use a recipe for the draft, or keep it under a name.

    Args:
        workspace: whose draft it is.
        recipe: with or without tuned weights.
        label: what the change is called in the history of the draft.
        key: unique on the page.
        live: it stands in a part of the page that is drawn by itself, so the rest has to follow.
    """
    if live and st.session_state.pop(f"{key}_used", False):
        st.rerun()
    used = workspace.recipe == recipe
    about, problem, kept = st.session_state.get(f"{key}_told", (None, "", ""))
    # on a new visit to the page the name that was typed is gone, and may be free by now
    if about == recipe and problem and f"{key}_name" in st.session_state:
        st.error(plain(problem))
    if kept and about == recipe == workspace.variants.get(kept):
        st.success(f"Kept as variant {plain(kept)}: compare and load it on the page Plan.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "In use" if used else "Use it",
            key=f"{key}_use",
            type="primary",
            disabled=used,
            on_click=_use,
            args=(workspace, recipe, label, key),
            help="The draft becomes this recipe; Undo takes it back",
        )
        st.text_input("Name", key=f"{key}_name", width=220, placeholder="a name")
        st.button(
            "Keep as variant",
            key=f"{key}_keep",
            on_click=_keep,
            args=(workspace, recipe, key),
            help="Under a name, in the run folder; to be compared, loaded and exported",
        )


def _use(workspace: Workspace, recipe: Recipe, label: str, key: str) -> None:
    st.session_state.pop(f"{key}_told", None)
    try:
        workspace.opened.session.tuned(recipe)
    except QvizError as failure:  # its weights were deleted from the run folder
        st.session_state[f"{key}_told"] = (recipe, str(failure), "")
        return
    workspace.apply(recipe, label)
    st.session_state[f"{key}_used"] = True


def _keep(workspace: Workspace, recipe: Recipe, key: str) -> None:
    name = str(st.session_state.get(f"{key}_name") or "").strip()
    try:
        workspace.opened.session.tuned(recipe)
        workspace.keep(name, recipe)
    except QvizError as failure:
        st.session_state[f"{key}_told"] = (recipe, str(failure), "")
        return
    st.session_state[f"{key}_told"] = (recipe, "", name)
    st.session_state[f"{key}_name"] = ""


def changed(changes: Sequence[Change], *, key: str) -> None:
    """What changed, row by row; as a picture where a fit has a loss before and after."""
    if not changes:
        st.caption("Nothing was changed.")
        return
    title = f"What changed ({len(changes):,})"
    box = st.expander(title, key=f"{key}_changes", on_change="rerun")
    if not box.open:
        return
    with box:
        for i, (unit, rows) in enumerate(comparable(changes).items()):
            chart(
                changes_figure(rows, unit),
                key=f"{key}_figure_{i}",
                alt=f"{unit} of {len(rows)} ops or tensors before and after",
            )
        st.dataframe(
            changes_table(changes),
            column_config=words.CHANGE_COLUMNS,
            hide_index=True,
            placeholder="",
            height=min(TALL, 35 * (len(changes) + 1) + 3),
            alt=f"What changed: {len(changes)} rows",
        )


def _again(workspace: Workspace, made: Tuning, *, key: str) -> None:
    """The command that does it again."""
    session = workspace.opened.session
    if session.run is None or reproduce.opened_with(session) is None:
        return
    box = st.expander("Do it again on the command line", key=f"{key}_again", on_change="rerun")
    if not box.open:
        return
    run = session.run.path.resolve()
    with box:
        try:
            file = reproduce.save_recipe(run, made.start)
        except QvizError as failure:
            st.error(plain(str(failure)))
            return
        known = {o.name: o.default for o in METHODS[made.method].module.OPTIONS}
        given = {k: v for k, v in made.options.items() if known.get(k, v) != v}
        st.code(words.command(run, file, made.method, given, made.ops), "bash", wrap_lines=True)
        st.caption("The run folder can be used once the app does not hold it any more.")
