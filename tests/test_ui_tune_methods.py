"""The cards of the methods: what they are restricted to, where their options make them apply."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import made
from page_kit import idle, shows, wait, workspace
from streamlit.testing.v1 import AppTest
from torch import nn

from qviz.opening import _OPENING
from qviz.tune.result import Tuning
from qviz.ui import launch
from qviz.ui.export_words import plain
from qviz.ui.launch import MAIN, Start

RUN = "tune_run_weight_range"
ONLY = "tune_weight_range_only"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convs without batch norm, called 0, 2 and 4, and a linear 7."""
    folder = tmp_path_factory.mktemp("files")
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    batch = torch.export.Dim("batch", min=1)
    with _OPENING:  # another test's server may be tracing a model of its own
        program = torch.export.export(
            made(net), (torch.zeros(4, 3, 8, 8),), dynamic_shapes=({0: batch},)
        )
    torch.export.save(program, folder / "plain.pt2")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(96, 3, 8, 8)).astype("f4")
    np.savez(folder / "few.npz", inputs=images[:32])
    np.savez(folder / "more.npz", inputs=images[32:], labels=rng.integers(0, 5, 64))
    return folder


@pytest.fixture
def at(
    files: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> AppTest:
    """The page with the network open, nothing running; the model stays open between tests."""
    monkeypatch.setenv("QVIZ_RUNS", str(tmp_path_factory.getbasetemp() / "tune-methods-runs"))
    begin = Start(
        str(files / "plain.pt2"), str(files / "few.npz"), evaluation=str(files / "more.npz")
    )
    monkeypatch.setattr(launch, "_start", begin)
    at = AppTest.from_file(str(MAIN), default_timeout=120).run()
    at.switch_page("../../pages/tune.py").run()
    return idle(wait(at, lambda: shows(at, RUN)))


def card(at: AppTest, source: str) -> str:
    """What a card says of where its method applies; it ends with its source."""
    (line,) = [one.value for one in at.caption if one.value.endswith(f" · {plain(source)}")]
    return str(line)


def weight_range(at: AppTest) -> str:
    return card(at, "Nagel et al. 2020, AdaRound (its starting grid)").partition(" · ")[0]


def choose(at: AppTest, *sites: str) -> None:
    """Restrict the weight range search, and close its options again."""
    at.session_state["tune_options_weight_range"] = True
    at.run()
    at.multiselect(key=ONLY).set_value(list(sites)).run()
    at.session_state["tune_options_weight_range"] = False
    at.run()


def in_float(at: AppTest, *ops: str) -> None:
    own = workspace(at)
    own.apply(own.recipe.skip(*ops), f"{', '.join(ops)} in float")


def test_a_card_says_that_its_method_is_restricted(at: AppTest) -> None:
    assert weight_range(at) == "Applies to 4 sites"
    choose(at, "2")
    assert weight_range(at) == "1 of 4 sites chosen"
    choose(at)
    assert weight_range(at) == "Applies to 4 sites"


def test_only_sites_that_can_still_be_changed_are(at: AppTest) -> None:
    choose(at, "2", "4")
    in_float(at, "2")
    idle(at)
    assert weight_range(at) == "1 of 3 sites chosen, 1 cannot be changed any more"
    at.button(key=RUN).click().run()
    idle(at)
    result = workspace(at).jobs["tune"].snapshot().result
    assert isinstance(result, Tuning)
    assert result.ops == ("4",)


def test_a_choice_of_which_nothing_is_left_runs_nothing_and_is_said(at: AppTest) -> None:
    choose(at, "2")
    in_float(at, "2")  # in another tab: this one still shows the draft before
    assert not at.button(key=RUN).disabled
    at.button(key=RUN).click().run()
    idle(at)
    assert "tune" not in workspace(at).jobs
    assert (
        weight_range(at) == "The site chosen cannot be changed any more: choose others in Options"
    )
    assert at.button(key=RUN).disabled
    at.session_state["tune_options_weight_range"] = True
    at.run()
    assert at.multiselect(key=ONLY).value == ["2"]
    at.multiselect(key=ONLY).set_value(["7"]).run()
    assert weight_range(at) == "1 of 3 sites chosen"
    assert not at.button(key=RUN).disabled


def test_a_method_that_an_option_makes_applicable_can_be_run_with_it(at: AppTest) -> None:
    source = "Hubara et al. 2021, CalibTIP"
    run = "tune_run_statistics"

    def where(value: str) -> str:
        at.selectbox(key="tune_statistics_where").set_value(value).run()
        idle(at)
        lines = [one.value for one in at.caption if one.value.endswith(f" · {source}")]
        return str(lines[0])  # the other one is bias tuning

    at.session_state["tune_options_statistics"] = True
    at.run()
    assert where("folded") == f"Nothing here that it could change · {source}"
    assert at.button(key=run).disabled
    assert where("all") == f"Applies to 4 sites · {source}"
    at.button(key=run).click().run()
    idle(at)
    result = workspace(at).jobs["tune"].snapshot().result
    assert isinstance(result, Tuning)
    assert result.options["where"] == "all"
    assert where("folded") == f"Nothing here that it could change · {source}"
    assert at.button(key=run).disabled


@pytest.mark.parametrize(("after", "warned"), [(3.0, True), (1.1, False), (0.5, False)])
def test_noise_that_moves_the_outputs_away_is_a_warning_in_the_record(
    at: AppTest, after: float, warned: bool
) -> None:
    session = workspace(at).opened.session
    session.note_tuning(
        {
            "title": "A step", "metric": session.metric.name, "float": 0.8, "before": 0.75,
            "after": 0.75, "gain": 0.0, "interval": [-0.1, 0.1], "divergence_before": 1.0,
            "divergence_after": after,
        }
    )  # fmt: skip
    at.session_state["tune_tab"] = "Tried"
    at.session_state["tune_tried"] = len(session.tunings())
    at.run()
    assert any("**A step**" in box.value for box in at.info)
    told = [box.value for box in at.warning if "outputs move away" in box.value]
    assert bool(told) == warned
    assert not warned or "rose by 200 %" in told[0]
