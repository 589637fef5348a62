"""The tutorial notebook, run as its reader runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, reads, writes
from traitlets.config import Config

from qviz.notebook_live import WIDGET
from qviz.notebook_show import PLOTLY

TUTORIAL = Path(__file__).resolve().parent.parent / "docs" / "tutorial.ipynb"

#: What the text says of the numbers, as a last cell that the reader does not see.
CLAIMS = """
import json, time
ranges = {c.calibrator: c for c in calibration.candidates["stem.act"]}
json.dumps({
    "seconds": time.process_time(),
    "worst two": scores.shares[1],
    "per tensor": compared[-1].change / min(row.change for row in compared[:1]),
    "clipped": picker.candidate.clipped_fraction,
    "finer": picker.candidate.scale / ranges["max"].scale,
    "sqnr gained": picker.candidate.sqnr_db - ranges["max"].sqnr_db,
    "divergence": session.evaluate(narrower).divergence / session.evaluate(recipe).divergence,
    "reached": found.reached,
    "in float": len(found.best.skipped),
    "limits": max(c.range.hi for c in ranges.values()) / min(c.range.hi for c in ranges.values()),
})
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookNode]:
    """The notebook after a run in a folder of its own, with nothing of the user's settings."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
            patch.setenv(name, str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        notebook = reads(TUTORIAL.read_text(encoding="utf-8"))
        notebook.cells.append(new_code_cell(CLAIMS))
        # sockets in a folder: no port is opened
        resources = {"metadata": {"path": str(folder)}}
        # sockets in a folder, so no port is opened; their path has to be short
        with TemporaryDirectory(prefix="qviz", dir="/tmp") as short:
            options = Config({"KernelManager": {"transport": "ipc", "ip": f"{short}/kernel"}})
            NotebookClient(notebook, timeout=300, resources=resources, config=options).execute()
        yield notebook


@pytest.fixture(scope="module")
def claims(run: NotebookNode) -> dict[str, Any]:
    text: str = run.cells[-1].outputs[0].data["text/plain"]
    found: dict[str, Any] = json.loads(text.strip("'"))
    return found


def outputs(run: NotebookNode) -> list[NotebookNode]:
    return [
        output for cell in run.cells[:-1] if cell.cell_type == "code" for output in cell.outputs
    ]


def test_it_is_kept_without_outputs() -> None:
    """They would be of one machine and one version; here they are made at every run."""
    cells = json.loads(TUTORIAL.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)


def test_nothing_is_printed_and_nothing_warned_of(run: NotebookNode) -> None:
    assert [output.text for output in outputs(run) if output.output_type == "stream"] == []


def test_every_step_shows_its_figure(run: NotebookNode) -> None:
    drawn = [output.data[PLOTLY] for output in outputs(run) if PLOTLY in output.get("data", {})]
    assert len(drawn) == 7
    assert all(figure["config"]["showSendToCloud"] is False for figure in drawn)


def test_no_widget_is_left_on_the_page(run: NotebookNode) -> None:
    assert not any(WIDGET in output.get("data", {}) for output in outputs(run))


def test_with_all_outputs_it_is_small(run: NotebookNode) -> None:
    assert len(writes(run)) < 1_000_000


def test_it_takes_less_than_a_minute_of_one_core(claims: dict[str, Any]) -> None:
    assert claims["seconds"] < 60


def test_the_checkpoint_passed(run: NotebookNode) -> None:
    lines = [str(output.get("data", {}).get("text/plain")) for output in outputs(run)]
    assert lines[-1].startswith("Parity certificate, passed: top1 measured on 500 samples")


def test_what_the_text_says_is_so(claims: dict[str, Any]) -> None:
    assert claims["worst two"] > 0.8  # "two ops cause most of the loss"
    assert claims["per tensor"] > 1.5  # "why nobody should do that"
    assert claims["clipped"] == pytest.approx(0.001, rel=0.3)  # "one value in a thousand"
    assert claims["finer"] == pytest.approx(0.6, abs=0.03)  # "40 % smaller"
    assert claims["sqnr gained"] < -3  # "the tensor's own SQNR fell"
    assert claims["divergence"] < 0.9  # "nearer to float all the same"
    assert claims["limits"] > 10  # "do not agree at all"
    assert claims["reached"]
    assert 0 < claims["in float"] <= 3  # "the fewest ops"
