"""The plan page with latencies: chosen, found out in the background, beside each op, on a chart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bench_kit import Even
from streamlit.testing.v1 import AppTest

from qviz.errors import RecipeError
from qviz.int8 import timing
from qviz.ui import launch, plan_latency, visit
from qviz.ui.launch import MAIN, Start
from qviz.ui.plan_editor import Sheet
from qviz.ui.workspace import Workspace

MODEL = """
import torch
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
"""


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """The page of a small model that can be measured."""
    monkeypatch.setenv("QVIZ_RUNS", str(tmp_path / "kept"))
    monkeypatch.setattr(timing, "stopwatch", lambda device: Even())
    monkeypatch.setattr(timing, "device_name", lambda device: "a CPU")
    monkeypatch.setattr(timing.Effort.__init__, "__defaults__", (0, 2, 2, 0.0))
    (tmp_path / "small.py").write_text(MODEL, encoding="utf-8")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(64, 4)).astype("float32")
    np.savez(tmp_path / "c.npz", inputs=inputs)
    np.savez(tmp_path / "e.npz", inputs=inputs, labels=rng.integers(0, 3, 64))
    start = Start(
        model=f"{tmp_path / 'small.py'}:make",
        calibration=str(tmp_path / "c.npz"),
        evaluation=str(tmp_path / "e.npz"),
    )
    monkeypatch.setattr(launch, "_start", start)
    page = AppTest.from_file(str(MAIN), default_timeout=60).run()
    page.switch_page("../../pages/plan.py").run()
    wait(page, lambda: "plan_sheet" in page.session_state)
    wait(page, lambda: "measured on all 64 samples" in [c.value for c in page.caption])
    wait(page, lambda: table(page)["divergence"].notna().all())
    return page


def wait(at: AppTest, ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, "it did not happen"
        assert not at.exception, at.exception
        time.sleep(0.02)
        at.run()


def workspace_of(at: AppTest) -> Workspace:
    found = visit.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


def table(at: AppTest) -> pd.DataFrame:
    sheet = at.session_state["plan_sheet"]
    assert isinstance(sheet, Sheet)
    return sheet.frame


def summary(at: AppTest) -> str:
    return next((c.value for c in at.caption if c.value.startswith("This draft: ")), "")


def test_latency_is_not_found_out_until_it_is_asked_for(at: AppTest) -> None:
    assert at.selectbox(key="latency_source").value == plan_latency.OFF
    assert "latency" not in workspace_of(at).jobs
    assert table(at)["extra_us"].isna().all()
    assert summary(at) == ""


def test_measured_here_it_stands_beside_each_op_and_in_words(at: AppTest) -> None:
    at.selectbox(key="latency_source").set_value(plan_latency.HERE).run()
    assert workspace_of(at).jobs["latency"].title == "Time every op"
    wait(at, lambda: summary(at))
    # x is quantized, and both layers run: the first with its ReLU in one kernel
    assert summary(at).startswith(
        "This draft: 3.00 µs at batch 1, 100 % of the float model's 3.00 µs (fp32); everything "
        "int8 3.00 µs. Measured on a CPU, "
    )
    # the first: 2 for 1, its input not quantized but its output; the second: 1 for 1
    assert dict(zip(table(at)["name"], table(at)["extra_us"], strict=True)) == {"0": 1.0, "2": 0.0}


def test_a_tick_says_what_it_costs(at: AppTest) -> None:
    at.selectbox(key="latency_source").set_value("L4, estimated").run()
    wait(at, lambda: summary(at))
    assert summary(at).endswith("Roofline estimate for L4, not measured.")
    sheet = at.session_state["plan_sheet"]
    at.session_state[sheet.key] = {
        "edited_rows": {0: {"float": True}}, "added_rows": [], "deleted_rows": [],
    }  # fmt: skip
    at.run()
    assert not at.exception
    (said,) = [m.value for m in at.markdown if m.value.startswith("- leaving")]
    assert said.startswith(f"- leaving {sheet.names[0]} float: ")
    assert said.endswith(" us (roofline estimate for L4)")


def test_it_is_found_out_once_per_source_and_batch(at: AppTest) -> None:
    at.selectbox(key="latency_source").set_value("L4, estimated").run()
    wait(at, lambda: summary(at))
    first = workspace_of(at).jobs["latency"]
    at.selectbox(key="latency_batch").set_value(8).run()
    wait(at, lambda: "at batch 8" in summary(at))
    assert workspace_of(at).jobs["latency"] is not first
    again = workspace_of(at).jobs["latency"]
    at.selectbox(key="latency_batch").set_value(1).run()
    assert "at batch 1" in summary(at)
    assert workspace_of(at).jobs["latency"] is again


def test_what_fails_is_said_and_can_be_tried_again(
    at: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RecipeError("profile", "its codes have zero points", "Choose cuda")

    with monkeypatch.context() as patch:
        patch.setattr("qviz.int8.lower.lower", refuse)
        at.selectbox(key="latency_source").set_value("T4, estimated").run()
        wait(at, lambda: at.error)
    assert at.error[0].value == "profile: its codes have zero points. Choose cuda."
    at.button(key="latency_again").click().run()
    wait(at, lambda: summary(at))
