"""The export page: the recipe, what it does otherwise, and how to do it again outside the app."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import streamlit as st

from qviz import report_words, reproduce
from qviz.errors import QvizError
from qviz.recipe import Recipe
from qviz.recipe_diff import differences, sentence
from qviz.report_content import Measured
from qviz.reporting import calibrator_of
from qviz.tables_export import differences_table
from qviz.ui import export_words as words
from qviz.ui.workspace import Workspace

#: How often a measurement that is not finished is looked at, in seconds.
POLL = 0.5


def recipe(workspace: Workspace) -> None:
    """The draft: its measurement, its JSON, and its differences from another recipe."""
    draft = workspace.recipe
    st.markdown(words.plain(report_words.decided(draft)))
    _measured(workspace)
    bases = compared_with(workspace)
    name = st.selectbox(
        "Compare with",
        list(bases),
        key=f"export_base_{workspace.id}",
        persist_state="session",
        help="The recipe as it was before any decision, or a variant kept on the Plan page",
    )
    name = name if name in bases else next(iter(bases))
    found = differences(draft, bases[name])
    st.markdown(words.plain(sentence(found, name)))
    if found:
        st.dataframe(
            differences_table(found),
            column_config=words.DIFFERENCE_COLUMNS,
            hide_index=True,
            width="stretch",
            alt=f"Differences of the recipe from {name}",
        )
    with st.expander("recipe.json"):
        text = draft.to_json()
        st.download_button(
            "Download recipe.json",
            text,
            "recipe.json",
            "application/json",
            key="export_json",
            on_click="ignore",
        )
        st.code(text, language="json", height=320)


def compared_with(workspace: Workspace) -> dict[str, Recipe]:
    """What the draft can be compared with, by name: where it started, and the variants."""
    opened, draft = workspace.opened, workspace.recipe
    bases = {}
    for spec in dict.fromkeys((calibrator_of(draft), "max")):
        make = partial(opened.session.recipe, spec, profile=draft.profile)
        bases[f"all int8 with {spec} ranges"] = opened.memo(
            f"all int8 {spec} {draft.profile}", make
        )
    return bases | {f"variant {name}": one for name, one in workspace.variants.items()}


def _measured(workspace: Workspace) -> None:
    """What the draft scores, on all samples when that is known; polls until then."""
    found = workspace.live()
    if found is None:
        st.caption("Not measured: there are no evaluation data.")
        return
    waiting = not found.settled

    def show() -> None:
        now = workspace.live()
        if now is None or (waiting and now.settled):
            st.rerun()
        if now.error is not None:
            st.warning(words.plain(now.error))
        if now.best is None:
            st.caption("Measuring …")
            return
        metric = workspace.opened.session.metric
        text = report_words.headline(Measured.of(now.best), metric)
        more = "" if now.full is not None else " All samples follow."
        st.markdown(words.plain(text + more))

    st.fragment(show, run_every=POLL if waiting else None)()


def reproduce_it(workspace: Workspace, folder: Path, formats: Sequence[str]) -> None:
    """The commands and the Python that do exactly this recipe again."""
    st.subheader("Do it again")
    session = workspace.opened.session
    options = reproduce.opened_with(session)
    if session.run is None or options is None:
        st.caption("How this model was opened is not known, so there is no command for it.")
        return
    run = session.run.path.resolve()
    try:
        file = reproduce.save_recipe(run, workspace.recipe)
    except QvizError as failure:
        st.error(words.plain(str(failure)))
        return
    st.caption(f"The recipe as it is now is kept in {words.plain(str(file))}")
    st.markdown("On the command line")
    text = reproduce.commands(run, file, folder, formats)
    st.code(text, language="bash", wrap_lines=True)
    st.markdown("In Python")
    tuned = run if workspace.recipe.weights else None
    text = reproduce.snippet(options, file, folder, formats, run=tuned)
    st.code(text, language="python", wrap_lines=True)
