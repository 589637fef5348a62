"""Named variants: save the draft, load one into it, delete one; then compare two."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from qviz.errors import QvizError, RecipeError
from qviz.recipe import resolve
from qviz.ui import compare, plan_import
from qviz.ui.compare_result import Variant
from qviz.ui.plan_choice import Choice, all_int8
from qviz.ui.plan_state import PlanState, state_of
from qviz.ui.variant_names import DRAFT, FIXED, FLOAT, INT8
from qviz.ui.words import Columns
from qviz.ui.workspace import Workspace

_number = st.column_config.NumberColumn
COLUMNS: Columns = {
    "variant": st.column_config.TextColumn("Variant", pinned=True),
    "ops": _number("Ops in float"),
    "macs": _number("MACs in float %", format="%.2f"),
    "calibrator": "Ranges",
    "drop": _number(
        "Drop measured %", format="%.3f", help="On all samples; empty where not measured yet"
    ),
    "low": _number("95 % from", format="%.3f"),
    "high": _number("to", format="%.3f"),
}


@st.fragment
def variants(workspace: Workspace) -> None:
    """The list of variants and what can be done with them."""
    st.subheader("Variants")
    found = all_of(workspace)
    _save()
    with st.container(horizontal=True, vertical_alignment="bottom", key="variants_save"):
        st.text_input("Save the draft as", key="variant_name", width=220)
        st.button("Save", key="variant_save", on_click=_keep, args=(workspace,))
        plan_import.upload(workspace, (*found, *workspace.variants))
    plan_import.outcome()
    _table(workspace, found)
    own = [name for name in found if name not in FIXED]
    with st.container(horizontal=True, vertical_alignment="bottom", key="variants_change"):
        name = st.selectbox("Variant", [*own, INT8], key="variant_chosen", width=220)
        if st.button("Load into the draft", key="variant_load"):
            recipe = found[name].recipe
            assert recipe is not None  # float is not offered
            workspace.apply(recipe, f"variant {name} loaded")
            st.rerun()
        if st.button("Delete", key="variant_delete", disabled=name not in own):
            workspace.keep(name, None)
            st.rerun()
    if workspace.opened.meter is None:
        return
    st.subheader("Compare two variants")
    compare.section(workspace, partial(all_of, workspace))


def all_of(workspace: Workspace) -> dict[str, Variant]:
    """The draft, the named ones that fit this model, all int8 and float."""
    graph = workspace.opened.session.graph
    named: dict[str, Variant] = {}
    for name, recipe in workspace.variants.items():
        try:
            resolve(recipe, graph)
            workspace.opened.session.tuned(recipe)
        except RecipeError:
            continue  # of another model that was kept in this folder, or its weights are gone
        named[name] = Variant(name, recipe)
    return {
        DRAFT: Variant(DRAFT, workspace.recipe),
        INT8: Variant(INT8, all_int8(workspace.recipe)),
        **named,
        FLOAT: Variant(FLOAT, None),
    }


def _save() -> None:
    problem = st.session_state.pop("variant_problem", None)
    if problem:
        st.error(problem)


def _keep(workspace: Workspace) -> None:
    name = str(st.session_state["variant_name"]).strip()
    try:
        workspace.keep(name, workspace.recipe)
    except QvizError as error:
        st.session_state["variant_problem"] = str(error)
    else:
        st.session_state["variant_name"] = ""
        st.session_state["variant_chosen"] = name


def _table(workspace: Workspace, found: dict[str, Variant]) -> None:
    graph, state = workspace.opened.session.graph, state_of(workspace)
    rows = [
        _row(state, variant, Choice.of(variant.recipe, graph))
        for variant in found.values()
        if variant.recipe is not None and variant.name != DRAFT
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"ops": "int64", "macs": "float64", "drop": "float64", "low": "float64", "high": "float64"}
    )
    st.dataframe(
        frame,
        column_config=COLUMNS,
        hide_index=True,
        alt="Variants",
        width="content",
        placeholder="",
    )


def _row(state: PlanState, variant: Variant, choice: Choice) -> tuple[object, ...]:
    point = state.point(choice)
    drops = (None, None, None) if point is None else (point.drop, point.low, point.high)
    weights = "" if choice.base.per_channel else ", weights per tensor"
    tuned = ", weights tuned" if choice.base.weights else ""
    return (
        variant.name,
        len(choice.ops),
        100 * choice.float_macs,
        f"{choice.base.calibrator}{weights}{tuned}",
        *(None if x is None else 100 * x for x in drops),
    )
