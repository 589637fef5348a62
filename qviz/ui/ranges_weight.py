"""The weight of an op: its values, every channel's largest magnitude, what one scale would cost."""

from __future__ import annotations

import streamlit as st

from qviz.affine import Grid
from qviz.calibrators import candidates
from qviz.diagnosis import diagnose_weight, weight_cost
from qviz.errors import QvizError
from qviz.figures_ranges import range_figure, weight_figure
from qviz.graph import Operand
from qviz.histogram import collect
from qviz.recipe import resolve
from qviz.ui import ranges_words as words
from qviz.ui.chart import chart
from qviz.ui.workspace import Workspace


def weight(workspace: Workspace, operand: Operand, *, log: bool) -> None:
    """Draw the weight operand of an op.

    Args:
        workspace: whose draft decides on bits and scales.
        operand: a weight.
        log: whether counts are drawn on a logarithmic scale.
    """
    opened, recipe = workspace.opened, workspace.recipe
    graph = opened.session.graph
    op, decision = graph.ops[operand.op], resolve(recipe, graph)[operand.name]
    tuned = opened.session.simulator_of(recipe)
    value = tuned.program.parameter(operand.tensor)
    axis, bits = operand.axis or 0, decision.bits
    reason = None if decision.int8 else decision.reason
    st.markdown(words.about_weight(op, tuple(value.shape), bits, reason))
    if recipe.weights:
        own = opened.session.simulator.program.parameter(operand.tensor)
        limit = tuned.graph.limits.get(operand.name, {}).get(bits)
        st.markdown(words.tuned_weight(value, own, limit))
    try:
        cost = opened.memo(
            f"weight {operand.name} {bits} {recipe.weights}",
            lambda: weight_cost(value, bits=bits, axis=axis),
        )
    except QvizError as error:
        st.error(str(error))
        return
    for finding in diagnose_weight(cost, per_channel=recipe.per_channel):
        st.warning(f"{finding.text} {finding.remedy}")
    histogram = opened.memo(
        f"weight histogram {operand.name} {recipe.weights}",
        lambda: collect(value, channel_dim=axis, batch_dim=None),
    )
    whole = candidates(histogram, Grid(bits, narrow=True), ["max"])
    figure = range_figure(histogram, whole, selected=None, revision=operand.name, log=log)
    chart(figure, key="ranges_weight", alt=f"Histogram of the weight of {op.name}")
    st.caption(words.HOW_WEIGHT)
    st.markdown(words.weight_cost(cost, recipe.per_channel))
    chart(
        weight_figure(cost.amax, revision=operand.name),
        key="ranges_weight_channels",
        alt=(
            f"Largest magnitude of each of the {cost.amax.numel()} channels of the weight: from "
            f"{float(cost.amax.min()):.4g} to {float(cost.amax.max()):.4g}"
        ),
    )
