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
from qviz.ui.tune_state import Asked, Sites, known_sites, running, sites_job
from qviz.ui.workspace import Workspace

KIND = "tune"
#: Methods that have a tab of their own, and which.
ELSEWHERE = {"qat": "See the tab Training."}
#: In place of an option's name: the sites that a method is restricted to.
ONLY = "only"
#: Sites that a method is restricted to by hand, None if it is not.
Only = tuple[str, ...] | None
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
            _card(workspace, method, found.get(method.name))


def _sites(workspace: Workspace) -> Mapping[str, Sites]:
    """Where each method applies, as far as that is known; nothing is looked for during a job."""
    asked = _asked()
    if running(workspace) is None:
        job = sites_job(workspace, asked)
        shown = job.wait(PATIENCE)
        if shown.active:
            jobs_view.progress(job, key="tune_sites")
        elif shown.state == "failed":
            jobs_view.failure(shown)
    return known_sites(workspace, asked)


def _asked() -> Asked:
    """What the options of all methods say about where they apply."""
    return frozenset(
        (method.name, option, value)
        for method in METHODS.values()
        for option, value in method.deciding(chosen(method)[0]).items()
    )


def _card(workspace: Workspace, method: Method, found: Sites | None) -> None:
    missing = "training" in method.needs and workspace.opened.session.training_data is None
    only = chosen(method)[1]
    with st.container(border=True, key=f"tune_method_{method.name}"):
        said, act = st.columns([7, 2], vertical_alignment="center")
        with said, st.container(gap=None):
            st.markdown(f"**{method.title}**: {plain(method.what)}")
            st.caption(f"{_where(found, only)} · {plain(method.source)}")
            if missing:
                st.caption(words.NO_TRAINING)
            elif found is not None and found.problem:
                st.caption(plain(found.problem))
        with act.container(horizontal=True, horizontal_alignment="right"):
            if method.module.OPTIONS or only or (found is not None and len(found.names) > 1):
                box = st.popover("Options", key=f"tune_options_{method.name}", on_change="rerun")
                if box.open:
                    with box:
                        _options(method, () if found is None else found.names, only or ())
            st.button(
                "Run",
                key=f"tune_run_{method.name}",
                disabled=missing or not _able(found, only) or running(workspace) is not None,
                on_click=_run,
                args=(workspace, method),
                help="Applied to the draft, measured before and after; the draft changes only when "
                "the result is used",
            )


def _where(found: Sites | None, only: Only) -> str:
    if found is None:
        return "…"
    if found.problem:
        return "Not here"
    if not found.names:
        return "Nothing here that it could change"
    if only:
        return _restricted(found, only)
    return words.applies(len(found.names))


def _restricted(found: Sites, only: Sequence[str]) -> str:
    chosen, left, count = len(only), len(_left(found, only)), len(found.names)
    if not left:
        none = (
            "The site chosen cannot" if chosen == 1 else f"None of the {chosen:,} chosen sites can"
        )
        return f"{none} be changed any more: choose others in Options"
    text = f"{left:,} of {count:,} {'site' if count == 1 else 'sites'} chosen"
    return text if left == chosen else f"{text}, {chosen - left:,} cannot be changed any more"


def _left(found: Sites, only: Sequence[str]) -> tuple[str, ...]:
    """Of the sites chosen those that can be changed: the draft or an option may have moved on."""
    return tuple(site for site in only if site in found.names)


def _able(found: Sites | None, only: Only) -> bool:
    """Whether there is, or may be, something to change; a choice waits until that is known."""
    if found is None:
        return not only
    return bool(found.problem or (_left(found, only) if only else found.names))


def _options(method: Method, names: Sequence[str], only: Sequence[str]) -> None:
    for option in method.module.OPTIONS:
        option_field(method, option)
    offered = names if len(names) <= MOST else ()
    if len(offered) > 1 or only:
        st.multiselect(
            "Only these sites",
            # what was chosen can be taken away again, whether or not it can still be changed
            [*offered, *(site for site in only if site not in offered)],
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


def chosen(method: Method) -> tuple[dict[str, Any], Only]:
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
    found = known_sites(workspace, _asked()).get(method.name)
    if not _able(found, only):  # the card, drawn again, says why
        return
    if only and found is not None and not found.problem:
        only = _left(found, only)
    session, recipe = workspace.opened.session, workspace.recipe
    work = background.tune(session, method.name, recipe, ops=only, **options)
    workspace.submit(KIND, method.title, work)
