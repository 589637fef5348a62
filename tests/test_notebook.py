"""What a cell shows that ends in one of qviz's values."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.io as pio
import pytest
import torch
from notebook_kit import Shell, figures, install

from qviz import notebook
from qviz.affine import Grid
from qviz.calibration import Calibration, CalibratorRow
from qviz.coverage import CoverageRow, Status
from qviz.errors import DataError, MissingExtraError
from qviz.evaluate import Evaluation, Flip
from qviz.histogram import Histogram, collect
from qviz.intervals import Interval, Scores
from qviz.metrics import METRICS
from qviz.notebook_html import MOST_ROWS, Table, View, html_table
from qviz.opening import open as open_session
from qviz.recipe import Override, Recipe, TensorRange
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity
from qviz.session import Session


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    return install(monkeypatch)


@pytest.fixture(scope="module")
def bell() -> Histogram:
    return collect(torch.randn(20_000, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def calibration(bell: Histogram) -> Calibration:
    wide = collect(torch.tensor([0.5, -0.5, 100.0, 0.25]))
    return Calibration({"conv": bell, "act": wide, "dead": collect(torch.zeros(0))}, 8, Grid())


@pytest.fixture(scope="module")
def session() -> Session:
    data = (torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2)
    return open_session(torch.nn.Linear(4, 2), data, data)


def evaluation(*flips: Flip) -> Evaluation:
    return Evaluation(
        metric=METRICS["top1"],
        scores=Scores("top1", 0.9, 200),
        reference=Scores("top1", 0.92, 200),
        change=-0.02 / 0.92,
        interval=Interval(-0.04, 0.001),
        divergence=0.0123,
        divergence_name="kl",
        flips=flips,
        p_value=0.25,
    )


def row(calibrator: str, *, best: bool) -> CalibratorRow:
    limits = Interval(-0.02, 0.01)
    return CalibratorRow(calibrator, True, 0.9, -0.01, limits, 0.1, True, best, 1)


RECIPE = Recipe(
    calibrator="mse",
    ranges=(TensorRange("x", -1.5, 1.5, "mse"),),
    overrides=(Override("conv", int8=False), Override("fc", bits=4)),
)


def line(outputs: list[dict[str, Any]]) -> str:
    text: str = outputs[-1]["text/plain"]
    return text


def test_a_calibration_shows_the_tensor_that_loses_most_and_a_table_of_all(
    shell: Shell, calibration: Calibration
) -> None:
    outputs = shell.run(calibration)
    assert len(outputs) == 2
    assert line(outputs) == "Calibration: 3 tensors, 8 samples"
    (figure,) = figures(outputs)
    assert figure["layout"]["title"]["text"] == "conv: 20,000 values"
    html = outputs[-1]["text/html"]
    assert "The histogram is that of <code>conv</code>" in html
    assert html.count("<tr>") == 4


def test_calibrators_show_the_best_first(shell: Shell) -> None:
    outputs = shell.run((row("max", best=False), row("mse", best=True)))
    assert line(outputs) == (
        "Calibrators measured: best is mse, -1.00 % from float (95 % -2.00 % to +1.00 %)"
    )
    (figure,) = figures(outputs)
    assert [trace["y"] for trace in figure["data"]] == [["max"], ["mse (best)"]]
    assert [trace["marker"]["size"] for trace in figure["data"]] == [8, 14]
    assert ">-2 to +1</td>" in outputs[-1]["text/html"]


def test_a_ranking_says_what_is_measured_and_gives_a_line_to_paste(
    shell: Shell, ranking: Sensitivity
) -> None:
    outputs = shell.run(replace(ranking, proxy={"conv": 0.3, "fc": 0.1}))
    assert line(outputs) == (
        "Sensitivity (only this int8): 1 of 2 measured on up to 100 samples, the others estimated"
    )
    assert len(figures(outputs)) == 1
    html = outputs[-1]["text/html"]
    assert "The worst 2 explain 100% of the summed divergence." in html
    assert "<code>recipe.skip(&#x27;conv&#x27;, &#x27;fc&#x27;)</code>" in html
    assert ">estimated</td>" in html


def test_without_an_estimate_the_rest_of_a_ranking_is_not_measured(
    shell: Shell, ranking: Sensitivity
) -> None:
    (text,) = [line(shell.run(replace(ranking, mode="all_but_this", operands="weights")))]
    assert text == (
        "Sensitivity (all but this int8, weights only): 1 of 2 measured on up to 100 samples, "
        "the others not measured"
    )


def test_a_search_shows_its_curve_and_what_it_left_in_float(
    shell: Shell, found: SearchResult
) -> None:
    outputs = shell.run(found)
    assert line(outputs) == (
        "Search: 1 of 2 ops in float (25.0% of MACs): drop 0.50%, target 1.00%"
    )
    assert len(figures(outputs)) == 1
    assert "Left in float: <code>recipe.skip(&#x27;conv&#x27;)</code>" in outputs[-1]["text/html"]


def test_an_evaluation_compares_with_float_and_lists_what_changed(shell: Shell) -> None:
    outputs = shell.run(evaluation(Flip(3, 1, 1, 0)))
    assert line(outputs) == (
        "top1 measured on 200 samples: 90.0 %, float 92.0 %; change -2.17 % "
        "(95 % -4.00 % to +0.100 %)"
    )
    html = outputs[-1]["text/html"]
    assert "Outputs: kl 0.0123 from float&#x27;s." in html
    assert (
        "1 of 200 predictions changed; McNemar&#x27;s test that they changed for the better as "
        "often as for the worse: p = 0.250." in html
    )
    assert all(f">{name}</th>" in html for name in ("sample", "label", "float says", "int8 says"))


def test_a_recipe_shows_its_exceptions_and_ranges(shell: Shell) -> None:
    outputs = shell.run(RECIPE)
    assert line(outputs) == (
        "Recipe: mse ranges of 1 tensors, weights 8 bits per channel, activations 8 bits, "
        "profile cuda; 1 left in float by choice"
    )
    html = outputs[-1]["text/html"]
    assert ">conv</td>" in html
    assert ">float</td>" in html
    assert ">as the rest</td>" in html
    assert ">-1.5</td>" in html


def test_a_session_shows_its_model_and_data_and_measures_nothing(
    shell: Shell, session: Session
) -> None:
    outputs = shell.run(session)
    assert line(outputs) == (
        "Linear: 1 ops, 1 of them quantizable (100 % of MACs); 10 parameters, 8 MACs per sample"
    )
    html = outputs[-1]["text/html"]
    assert "Calibration data: 40 samples." in html
    assert "Evaluation data: 40 samples, metric top1." in html
    assert "Warning: " in html
    assert len(figures(outputs)) == 1
    assert session._calibration is None


def test_a_graph_and_its_coverage_show_every_op(shell: Shell, session: Session) -> None:
    assert len(figures(shell.run(session.graph))) == 1
    assert line(shell.run(session.coverage())) == "1 ops: 1 int8"


def test_coverage_counts_why_ops_are_float(shell: Shell) -> None:
    kinds: tuple[tuple[str, Status], ...] = (("a", "int8"), ("b", "float"), ("c", "int8"))
    rows = tuple(
        CoverageRow(name, "conv2d", status, "", 1, 1, (2, 2), "model.py:1")
        for name, status in kinds
    )
    assert line(shell.run(rows)) == "3 ops: 2 int8, 1 float"


def test_a_histogram_shows_its_values(shell: Shell) -> None:
    outputs = shell.run(collect(torch.tensor([0.0, -1.0, 1.0, 2.0])))
    assert line(outputs) == "Histogram: 4 values from -1 to 2"
    assert len(figures(outputs)) == 1
    assert ">25</td>" in outputs[-1]["text/html"]  # zeros, %


def test_a_histogram_of_nothing_finite_says_so(shell: Shell) -> None:
    (_, result) = shell.run(collect(torch.tensor([float("nan")])))
    assert result["text/plain"] == "Histogram: 1 values, none of them finite"


def test_candidates_show_what_they_cost(shell: Shell, calibration: Calibration) -> None:
    (result,) = shell.run(calibration.candidates["conv"])
    assert result["text/html"].count("<tr>") == 9


def test_ranges_show_one_tensor(shell: Shell, calibration: Calibration) -> None:
    outputs = shell.run(notebook.ranges(calibration, "conv"))
    assert line(outputs) == "conv: 20,000 values from 8 samples"
    assert len(figures(outputs)) == 1


def test_ranges_of_an_operand_are_those_of_the_tensor_it_reads(session: Session) -> None:
    fresh = open_session(torch.nn.Linear(4, 2), session.calibration_data)
    assert notebook.ranges(fresh, "linear/input").text == "input: 160 values from 40 samples"


def test_an_unknown_tensor_is_named_with_those_like_it(calibration: Calibration) -> None:
    with pytest.raises(DataError) as caught:
        notebook.ranges(calibration, "conv1")
    assert str(caught.value) == "tensor conv1: was not calibrated. Did you mean conv."


def test_an_op_that_nothing_reads_is_told_from_what_it_reads(session: Session) -> None:
    fresh = open_session(torch.nn.Linear(4, 2), session.calibration_data)
    with pytest.raises(DataError) as caught:
        notebook.ranges(fresh, "linear")
    assert str(caught.value) == (
        "tensor linear: is read by nothing that can be int8. "
        "To see what it reads, name linear/input."
    )


def test_a_tensor_without_data_has_no_range(calibration: Calibration) -> None:
    with pytest.raises(DataError) as caught:
        notebook.ranges(calibration, "dead")
    assert str(caught.value) == (
        "tensor dead: saw no finite value, so it has no range. "
        "Calibrate with samples that reach it."
    )


def test_a_figure_is_small_and_offers_no_upload(shell: Shell, calibration: Calibration) -> None:
    (figure,) = figures(shell.run(notebook.ranges(calibration, "conv")))
    assert figure["config"] == {"showSendToCloud": False, "displaylogo": False}
    assert len(json.dumps(figure)) < 100_000


def test_figures_of_others_offer_no_upload_either(shell: Shell) -> None:
    assert pio.renderers["plotly_mimetype"].config["showSendToCloud"] is False


def test_in_a_terminal_there_is_one_line(shell: Shell, calibration: Calibration) -> None:
    shell.display_formatter.active_types = ["text/plain"]
    outputs = shell.run(calibration)
    assert [output["text/plain"] for output in outputs] == ["Calibration: 3 tensors, 8 samples"]


@pytest.mark.parametrize("missing", ["qviz", "plotly"])
def test_without_plotly_the_table_is_there_and_the_cure(shell: Shell, missing: str) -> None:
    def figure() -> object:
        if missing == "qviz":
            raise MissingExtraError("figures", "plotly is not installed", "Install it")
        raise ModuleNotFoundError(name="plotly")

    (instead, result) = shell.run(View("a line", (), (Table(pd.DataFrame({"a": [1]})),), figure))
    assert instead["text/plain"] == (
        "The figure needs plotly. Install it: pip install 'qviz[notebook]'."
    )
    assert result["text/plain"] == "a line"


def test_a_long_table_is_cut_and_says_where_the_rest_is() -> None:
    html = html_table(Table(pd.DataFrame({"n": np.arange(MOST_ROWS + 7)}), "all(<rows>)"))
    assert html.count("<tr>") == MOST_ROWS + 1
    assert "<p>and 7 more rows: <code>all(&lt;rows&gt;)</code> has all</p>" in html


def test_the_limits_of_an_interval_are_one_column() -> None:
    frame = pd.DataFrame({"change_low_percent": [-1.0, np.nan], "change_high_percent": [2.0] * 2})
    html = html_table(Table(frame))
    assert ">95 % interval</th></tr>" in html
    assert html.count("<td") == 2
    assert ">-1 to +2</td>" in html


def test_no_change_has_no_sign() -> None:
    html = html_table(Table(pd.DataFrame({"change_percent": [-0.0, 0.5]})))
    assert [">0</td>" in html, ">+0.5</td>" in html] == [True, True]


def test_names_cannot_bring_html_along() -> None:
    frame = pd.DataFrame({"<b>": ["<script>"]})
    assert ">&lt;b&gt;</th>" in html_table(Table(frame))
    assert ">&lt;script&gt;</td>" in html_table(Table(frame))


def test_other_tuples_look_as_always(shell: Shell) -> None:
    for value in ((), (1, 2), ("a", (row("max", best=True), 1))):
        (result,) = shell.run(value)
        assert result.keys() == {"text/plain"}
    assert shell.run((1, 2))[0]["text/plain"] == "(1, 2)"


def test_a_tuple_class_keeps_its_own_picture(shell: Shell) -> None:
    class Own(namedtuple("Own", "a")):
        def _repr_mimebundle_(self) -> dict[str, str]:
            return {"text/html": "own"}

    assert shell.run(Own(1))[0]["text/html"] == "own"


def test_enabling_twice_is_enabling_once_and_can_be_undone(shell: Shell) -> None:
    rows = (row("max", best=True),)
    notebook.load_ipython_extension(shell)
    assert line(shell.run(rows)).startswith("Calibrators measured")
    notebook.unload_ipython_extension(shell)
    (result,) = shell.run(rows)
    assert result.keys() == {"text/plain"}
    assert result["text/plain"].startswith("(CalibratorRow(")
    (result,) = shell.run(RECIPE)
    assert result["text/plain"].startswith("Recipe(profile=")


def test_the_first_use_of_qviz_in_ipython_enables_it() -> None:
    code = """
        import sys, qviz
        qviz.Recipe
        assert "IPython" not in sys.modules and "qviz.notebook" not in sys.modules
        del qviz.__dict__["Recipe"]
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config
        options = Config({"HistoryManager": {"enabled": False}})
        shell = InteractiveShell.instance(config=options, user_ns={"qviz": qviz})
        shell.run_cell("print(get_ipython().display_formatter.format(qviz.Recipe())[0].keys())")
    """
    lines = "\n".join(text.strip() for text in code.splitlines())
    run = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "dict_keys(['text/html', 'text/plain'])"
