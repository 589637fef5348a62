"""Charts of the app: what goes to the browser, and what the browser computes of it."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from qviz.affine import Grid
from qviz.histogram import Histogram, collect
from qviz.histogram_cost import ClipRange, costs
from qviz.ui import chart as charts
from qviz.ui.ranges_view import drawn_density

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
UI = Path(charts.__file__).parent


def tensors() -> dict[str, torch.Tensor]:
    """Shapes that take different ways through the formulas."""
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    return {
        "bell": x,
        "after relu": x.relu(),
        "after silu": torch.nn.functional.silu(3 * x),
        "all negative": -x.abs() - 0.25,
        "far from zero": x.abs() + 5,
        "an outlier": torch.cat([x, torch.tensor([400.0])]),
        "a few levels": torch.round(x * 2) / 2,
        "tiny": x * 1e-20,
        "one value": torch.tensor([1.5]),
    }


def ranges(h: Histogram) -> list[ClipRange]:
    """Limits inside, at and beyond the values, narrow and wide, mirrored or not."""
    shares = (1e-4, 0.03, 0.4, 0.77, 1.0, 1.3)
    mirrored = [ClipRange(-share * h.amax, share * h.amax) for share in shares]
    return [*mirrored, *(ClipRange(-a * h.amax, b * h.amax) for a in shares for b in shares[::2])]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_the_browser_computes_what_python_computes(tmp_path: Path) -> None:
    grids = (Grid(), Grid(4), Grid(symmetric=False), Grid(3, symmetric=False))
    cases = []
    wanted = []
    for values in tensors().values():
        h = collect(values)
        for grid in grids:
            qualities, steps = costs(h, ranges(h), grid)
            wanted += [(grid, q, step) for q, step in zip(qualities, steps, strict=True)]
            spans = [[clip.lo, clip.hi] for clip in ranges(h)]
            cases.append({"density": drawn_density(h, grid), "ranges": spans})
    found = in_browser(
        tmp_path,
        f"const cases = {json.dumps(cases)};"
        "const out = cases.flatMap(({density, ranges}) => { const d = readDensity(density);"
        " return ranges.map(([lo, hi]) => costOf(d, lo, hi, density)); });",
    )
    assert len(found) == len(wanted)
    for one, (_, quality, step) in zip(found, wanted, strict=True):
        assert one["step"] == step
        assert one["clipped_fraction"] == pytest.approx(quality.clipped_fraction, abs=1e-12)
        assert one["mse"] == pytest.approx(quality.mse, rel=1e-6, abs=0)
        assert one["clipping_mse"] == pytest.approx(
            quality.clipping_mse, rel=1e-6, abs=1e-12 * quality.mse
        )
        if math.isfinite(quality.sqnr_db):
            assert one["sqnr_db"] == pytest.approx(quality.sqnr_db, abs=1e-5)
        else:
            assert one["sqnr_db"] is None


def in_browser(folder: Path, script: str) -> list[dict[str, float]]:
    """What a script that sets ``out`` gives in a browser, after the maths of the chart."""
    page = folder / "page.html"
    maths = (UI / "ranges_cost.js").read_text(encoding="utf-8")
    page.write_text(
        f"<meta charset=utf-8><body><script>{maths}\n{script}\n"
        "document.body.textContent = JSON.stringify(out);</script>",
        encoding="utf-8",
    )
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    )
    run = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    body = re.search(r"<body>(.*)</body>", run.stdout, re.DOTALL)
    assert body is not None, run.stdout[:500]
    found: list[dict[str, float]] = json.loads(html.unescape(body[1]))
    return found


def two_charts() -> None:
    import plotly.graph_objects as go

    from qviz.ui.chart import Limits, chart

    cost = dict.fromkeys(("clipped_fraction", "step", "mse", "clipping_mse", "rounding_mse"), 0.0)
    limits = Limits(-1.0, 1.0, True, False, cost, {"first": 0})
    chart(go.Figure(go.Scatter(x=[1], y=[2])), key="one", alt="One point")
    chart(go.Figure(layout={"height": 300}), key="two", alt="Nothing", limits=limits)


def test_two_charts_stand_on_one_page_each_with_its_words() -> None:
    at = AppTest.from_function(two_charts, default_timeout=60).run()
    assert not at.exception
    plain, dragged = (json.loads(one.proto.json) for one in at.get("bidi_component"))
    assert (plain["alt"], plain["limits"]) == ("One point", None)
    assert json.loads(plain["figure"])["data"][0]["x"] == [1]
    assert dragged["limits"]["lo"] == -1.0
    assert dragged["limits"]["density"] == {"first": 0}


def test_plotly_comes_from_this_server() -> None:
    at = AppTest.from_function(two_charts, default_timeout=60).run()
    sources = {json.loads(one.proto.json)["src"] for one in at.get("bidi_component")}
    assert sources == {"/qviz-assets/plotly.min.js"}


def test_no_script_of_the_chart_names_another_host() -> None:
    for name in charts.SCRIPTS:
        assert "://" not in (UI / name).read_text(encoding="utf-8")


def test_plotly_is_told_not_to_offer_an_upload() -> None:
    assert "showSendToCloud: false" in (UI / "chart.js").read_text(encoding="utf-8")


def test_without_values_there_is_nothing_to_drag() -> None:
    assert drawn_density(collect(torch.zeros(8)), Grid()) is None
    assert drawn_density(collect(torch.tensor([float("nan")])), Grid()) is None
