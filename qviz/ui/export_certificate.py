"""The certificate on the export page: backends with their verdicts, every call, what it is of."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from qviz import report_certificate as said
from qviz.digits import count, number, percent
from qviz.int8.certificate_file import CERTIFICATE
from qviz.tables_export import backends_table, calls_table, identity_table, kernels_table
from qviz.ui import export_words as words
from qviz.ui.export_folder import Written
from qviz.ui.workspace import Workspace

#: What the filter of backends shows before one is chosen.
ALL = "all"


def certificate(workspace: Workspace, found: Written) -> None:
    """What was proven about an int8 program, or why nothing is."""
    st.subheader("Parity certificate")
    if found.certificate is None:
        told = found.stale or "Not verified yet: nothing is known about what the program computes."
        st.warning(words.plain(told))
        return
    held = found.certificate
    _verdict(held)
    _numbers(workspace, held)
    st.dataframe(
        backends_table(held, workspace.opened.session.metric),
        column_config=words.BACKEND_COLUMNS,
        hide_index=True,
        width="stretch",
        placeholder="-",
        alt="Backends with their verdicts",
    )
    notes = [said.tolerance_sentence(held), *said.notes(held)]
    st.caption("\n\n".join(map(words.plain, notes)))
    with st.expander("Every call of every backend, worst first"):
        _calls(held)
    with st.expander("What was verified, where, and with which kernels"):
        _identity(held)
    st.download_button(
        "Download certificate.json",
        json.dumps(held, indent=1),
        CERTIFICATE,
        "application/json",
        key="export_certificate",
        on_click="ignore",
    )


def _verdict(held: dict[str, Any]) -> None:
    ran = [one["name"] for one in held["backends"] if one["verdict"] in ("passed", "failed")]
    failed = [one["name"] for one in held["backends"] if one["verdict"] == "failed"]
    text = " ".join(said.parity_sentence(held, name) for name in failed or ran[:1])
    if len(ran) > 1:
        text += f" All backends: {said.verdict_sentence(held)}."
    if held["passed"]:
        st.success(words.plain(f"Parity passed. {text}"))
    else:
        st.error(words.plain(f"Parity failed. {text}"))


def _numbers(workspace: Workspace, held: dict[str, Any]) -> None:
    metric = workspace.opened.session.metric
    known = said.metric_of(held, metric)
    title = known.title if known else held["metric"]
    one = said.backend(held)
    share = percent(held["int8_bytes"] / max(1, held["float_bytes"]))
    numbers = [
        ("Int8 program", said.value(held, one["value"], metric), f"{title}, measured"),
        ("Simulation", said.value(held, one["simulated"], metric), f"{title}, measured"),
        ("Size of weights", f"{count(held['int8_bytes'])}B", f"{share} of float"),
    ]
    numbers += [
        (f"Batch of {row['batch']}", f"{number(row['int8_ms'])} ms", said.timed(row))
        for row in held["latency"]
    ]
    with st.container(horizontal=True):
        for name, value, note in numbers:
            with st.container(width=165, gap=None):
                st.metric(name, value)
                st.caption(note)
    st.caption(words.plain(said.metric_sentence(held, metric)))


def _calls(held: dict[str, Any]) -> None:
    names = [one["name"] for one in held["backends"] if one["rows"]]
    text = st.text_input("Filter by op or kernel", key="export_filter", persist_state="session")
    chosen = st.segmented_control(
        "Backend", [ALL, *names], default=ALL, key="export_backend", required=True
    )
    rows = calls_table(held, text, "" if chosen in (ALL, None) else str(chosen))
    if rows.empty:
        st.caption("No call has that in its name.")
        return
    st.dataframe(
        rows,
        column_config=words.CALL_COLUMNS,
        hide_index=True,
        width="stretch",
        alt="Calls against the simulation, worst first",
    )


def _identity(held: dict[str, Any]) -> None:
    st.dataframe(
        identity_table(held),
        column_config=words.IDENTITY_COLUMNS,
        hide_index=True,
        width="stretch",
        alt="Model, data, recipe and files with their digests",
    )
    st.dataframe(
        kernels_table(held),
        column_config=words.KERNEL_COLUMNS,
        hide_index=True,
        width="stretch",
        alt="Kernels by kind of op",
    )
    st.caption(words.plain(said.machine_sentence(held)))
