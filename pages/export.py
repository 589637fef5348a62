"""Export: the recipe as a file, the int8 program with its proof, the report."""

from __future__ import annotations

import streamlit as st

from qviz.ui import export, export_report, export_write, visit

st.title("Export")
workspace = visit.require()
export.recipe(workspace)
formats, target = export_write.choose(workspace)
if target.error is None:
    export_write.result(workspace, target.path)
    export_report.report(workspace, target.path)
    export.reproduce_it(workspace, target.path, formats)
