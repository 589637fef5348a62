"""Plan: which ops and operands stay in float, what that costs, and variants compared."""

from __future__ import annotations

import streamlit as st

from qviz.ui import plan, plan_variants, visit

st.title("Plan")
workspace = visit.require()
plan.draft(workspace)
st.divider()
plan_variants.variants(workspace)
