"""Every method as a card: what it does, where it applies, its options, and a button to run it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import streamlit as st

from qviz import background
from qviz.tune.methods import METHODS, Cost, Method
from qviz.tune.result import Tuning
from qviz.tune.step import Option
from qviz.ui import jobs_view, tune_result
from qviz.ui import tune_words as words
from qviz.ui.export_words import plain
from qviz.ui.tune_state import Sites, running, sites_job, state_of
from qviz.ui.workspace import Workspace

KIND = "tune"
#: Methods that have a tab of their own, and which.
ELSEWHERE = {"qat": "See the tab Training."}
#: In place of an option's name: the sites that a method is restricted to.
ONLY = "only"
#: How long the page waits for the methods to say where they apply before it is drawn, in seconds.
PATIENCE = 0.4
#: Sites that a method can be restricted to by hand; a list of more is no choice.
MOST = 400


def methods(workspace: Workspace) -> None:
    """The last result, then the methods by what they cost."""
    job = workspace.jobs.get(KIND)
    shown = None if job is None else job.snapshot()
    if shown is not None and not shown.active:
        jobs_view.failure(shown)
        if isinstance(shown.result, Tuning):
            tune_result.result(workspace, shown.result, key="tune_last")
    if not METHODS:
        st.info("There are no methods.")
        return
    found = _sites(workspace)
    for cost in get_args(Cost):
        group = [method for method in METHODS.values() if method.cost == cost]
        if group:
            title, about = words.COSTS[cost]
            st.subheader(title, anchor=False)
            st.caption(about)
        for method in group:
            if method.name in ELSEWHERE:
                st.caption(f"**{method.title}**: {plain(method.what)} {ELSEWHERE[method.name]}")
                continue
            _card(workspace, method, None if found is None else found.get(method.name))


def _sites(workspace: Workspace) -> Mapping[str, Sites] | None:
    """Where each method applies, as far as that is known; nothing is looked for during a job."""
    if running(workspace) is not None:
        known = state_of(workspace).sites.get(workspace.recipe)
        return None if known is None else known.snapshot().result
    job = sites_job(workspace)
    shown = job.wait(PATIENCE)
    if shown.active:
        jobs_view.progress(job, key="tune_sites")
    elif shown.state == "failed":
        jobs_view.failure(shown)
    found: Mapping[str, Sites] | None = shown.result or shown.partial
    return found


def _card(workspace: Workspace, method: Method, found: Sites | None) -> None:
    missing = "training" in method.needs and workspace.opened.session.training_data is None
    nothing = found is not None and not found.problem and not found.names
    with st.container(border=True, key=f"tune_method_{method.name}"):
        said, act = st.columns([7, 2], vertical_alignment="center")
        with said, st.container(gap=None):
            st.markdown(f"**{method.title}**: {plain(method.what)}")
            st.caption(f"{_where(found)} · {plain(method.source)}")
            if missing:
                st.caption(words.NO_TRAINING)
            elif found is not None and found.problem:
                st.caption(plain(found.problem))
        with act.container(horizontal=True, horizontal_alignment="right"):
            if method.module.OPTIONS or (found is not None and len(found.names) > 1):
                box = st.popover("Options", key=f"tune_options_{method.name}", on_change="rerun")
                if box.open:
                    with box:
                        _options(method, () if found is None else found.names)
            st.button(
                "Run",
                key=f"tune_run_{method.name}",
                disabled=missing or nothing or running(workspace) is not None,
                on_click=_run,
                args=(workspace, method),
                help="Applied to the draft, measured before and after; the draft changes only when "
                "the result is used",
            )


def _where(found: Sites | None) -> str:
    if found is None:
        return "…"
    if found.problem:
        return "Not here"
    return words.applies(len(found.names)) if found.names else "Nothing here that it could change"


def _options(method: Method, names: Sequence[str]) -> None:
    for option in method.module.OPTIONS:
        option_field(method, option)
    if 1 < len(names) <= MOST:
        st.multiselect(
            "Only these sites",
            names,
            key=_key(method, ONLY),
            filter_mode="fuzzy",
            placeholder=f"all {len(names)}",
            persist_state="session",
            help="Most promising first, where that is known",
        )


def option_field(method: Method, option: Option) -> None:
    """The field of an option; ``chosen`` reads it."""
    key = _key(method, option.name)
    title, default = option.name.replace("_", " ").capitalize(), option.default
    if isinstance(default, bool):
        st.checkbox(title, default, key=key, help=option.help, persist_state="session")
    elif isinstance(default, str):
        st.selectbox(
            title,
            option.choices,
            index=option.choices.index(default),
            key=key,
            help=option.help,
            persist_state="session",
        )
    else:
        kind = type(default)
        st.number_input(
            title,
            min_value=None if option.low is None else kind(option.low),
            max_value=None if option.high is None else kind(option.high),
            value=default,
            step=1 if kind is int else step_of(float(default)),
            format="%d" if kind is int else "%.6g",
            key=key,
            help=option.help,
            persist_state="session",
        )


def step_of(value: float) -> float:
    """What the arrows of a field move a number by: a tenth of its power of ten."""
    return float(10.0 ** (math.floor(math.log10(abs(value))) - 1)) if value else 0.01


def _key(method: Method, name: str) -> str:
    return f"tune_{method.name}_{name}"


def chosen(method: Method) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """The options that the page says, and what the method is restricted to."""
    state = st.session_state
    options = {
        one.name: state[_key(method, one.name)]
        for one in method.module.OPTIONS
        if state.get(_key(method, one.name)) is not None
    }
    only = tuple(state.get(_key(method, ONLY)) or ())
    return options, only or None


def _run(workspace: Workspace, method: Method) -> None:
    if running(workspace) is not None:  # a second click before the page was drawn again
        return
    options, only = chosen(method)
    session, recipe = workspace.opened.session, workspace.recipe
    work = background.tune(session, method.name, recipe, ops=only, **options)
    workspace.submit(KIND, method.title, work)
