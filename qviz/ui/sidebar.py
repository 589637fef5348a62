"""What stands beside every page: the model, the op that is looked at, the job that runs."""

from __future__ import annotations

import streamlit as st

from qviz.ui import jobs_view, visit, words
from qviz.ui.workspace import Workspace


def draw(workspace: Workspace | None) -> None:
    """The sidebar; says nothing while no model is open."""
    st.session_state["beside"] = False
    if workspace is None:
        return
    with st.sidebar:
        if workspace.opening.snapshot().state != "done":
            st.markdown(f"**{workspace.start.model}**")
            return
        st.session_state["beside"] = True
        opened = workspace.opened
        graph = opened.session.graph
        # a saved program has no class to be named after
        name = opened.session.model.name if graph.name == "program" else graph.name
        st.markdown(f"**{name}**", help=words.summary(graph, opened.calibration))
        if visit.layer(workspace) is not None:
            st.selectbox(
                "Op",
                visit.ops(workspace),
                key=visit.LAYER,
                filter_mode="fuzzy",
                help="Type to search. The op chosen here is chosen on every page",
            )
            about, notice = st.session_state.get("layer_notice", (None, ""))
            if about == st.session_state[visit.LAYER]:
                st.warning(notice)
        running = [job for job in opened.worker.jobs if job.snapshot().active]
        own = {job.id for job in workspace.jobs.values()}
        for job in running:
            if job.id in own:
                jobs_view.progress(job, key="sidebar")
            else:
                st.caption(f"Another visitor's job runs on this model: {job.title}")
        if opened.session.run is not None:
            st.caption(f"Kept in {opened.session.run.path}")
