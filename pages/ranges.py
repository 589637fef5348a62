"""Ranges: where the values of one tensor lie, and where each calibrator would cut them off."""

from __future__ import annotations

import streamlit as st

from qviz import figures, tables
from qviz.errors import QvizError
from qviz.ui import words, workbench

st.title("Ranges")
st.write(words.INTRO)

choice = st.selectbox(
    "Model", workbench.choices(), format_func=words.model_name, key="model", width=420
)
with st.empty():
    bar = st.progress(0.0, text="Loading the model …")
    try:
        opened = workbench.opened(choice, bar)
    except QvizError as error:
        st.error(str(error))
        st.stop()
    st.write(words.summary(opened.session.graph, opened.calibration))

for warning in opened.session.warnings:
    st.warning(warning)

histograms, candidates = opened.calibration.histograms, opened.calibration.candidates
tensor = st.selectbox(
    "Tensor",
    list(histograms),
    index=workbench.hardest(opened.calibration),
    key="tensor",
    width=420,
    help=words.TENSOR_HELP,
)

ranges = candidates.get(tensor, ())
figure = figures.histogram_figure(histograms[tensor], ranges, name=tensor)
st.plotly_chart(figure, key="histogram", config=figures.CONFIG, alt=words.picture(tensor))
st.caption(words.READING)

st.dataframe(
    tables.candidates_table(ranges),
    key="candidates",
    hide_index=True,
    column_config=words.CANDIDATE_COLUMNS,
    alt=f"Candidate ranges of {tensor}",
)

with st.expander(f"All {len(histograms)} calibrated tensors"):
    st.dataframe(
        tables.tensors_table(opened.session.graph, histograms, candidates),
        key="tensors",
        hide_index=True,
        column_config=words.TENSOR_COLUMNS,
        alt="All calibrated tensors",
    )
coverage = tables.coverage_table(opened.session.coverage())
with st.expander(f"All {len(coverage)} ops, and which can run in int8"):
    st.dataframe(
        coverage,
        key="coverage",
        hide_index=True,
        column_config=words.COVERAGE_COLUMNS,
        alt="All ops and their coverage",
    )

st.subheader("From here on")
st.write(words.REST)
st.code(words.command(choice), language="bash")
