"""What the draft scores: measured on a few samples at once, on all of them a little later."""

from __future__ import annotations

import streamlit as st

from qviz.evaluate import Evaluation
from qviz.ui import ranges_words as words
from qviz.ui.workspace import Workspace

#: How often a measurement under way is looked at, in seconds.
POLL = 0.3


def draft_metric(workspace: Workspace, *, key: str) -> None:
    """The metric of the draft beside that of float; polls until all samples are measured.

    Args:
        workspace: whose draft it is.
        key: unique on the page; the last value is kept under it, to be shown while the next one
            is being measured.
    """
    first = workspace.live()
    if first is None:
        st.info(words.NO_DATA)
        return
    polling = not first.settled

    def draw() -> None:
        found = workspace.live()
        if found is None:
            return
        if polling and found.settled:
            st.rerun()  # once, so that polling ends
        if found.error is not None:
            st.error(found.error)
            return
        slot = f"{key}_{workspace.id}"
        if found.best is not None:
            st.session_state[slot] = found.best
            _value(found.best, everything=found.full is not None)
            if found.full is None:
                st.caption("measuring all samples …")
            return
        before = st.session_state.get(slot)
        _waiting(before if isinstance(before, Evaluation) else None)

    st.fragment(draw, run_every=POLL if polling else None)()


def _value(found: Evaluation, *, everything: bool) -> None:
    st.markdown(f"{found.metric.title} of the draft", help=found.metric.description)
    st.markdown(f"### {words.scored(found.value, found.metric)}")
    st.caption(words.measured(found, everything=everything))
    st.markdown(words.change(found))
    if found.flips:
        st.caption(words.flips(found))


def _waiting(before: Evaluation | None) -> None:
    """The value before the change, greyed: it is not that of the draft any more."""
    if before is not None:
        st.markdown(f"{before.metric.title} of the draft", help=before.metric.description)
        st.markdown(f"### :gray[{words.scored(before.value, before.metric)}]")
        st.caption("measuring … (the value before the change)")
    else:
        st.caption("measuring …")
