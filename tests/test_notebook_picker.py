"""RangePicker: a range chosen on the histogram, by every way there is."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ipywidgets.widgets import widget as registry
from notebook_kit import Shell, figures, install

from qviz import notebook
from qviz.affine import Grid
from qviz.calibration import Calibration
from qviz.calibrators import ClipRange, describe
from qviz.errors import DataError, MissingExtraError, RangeError
from qviz.histogram import collect
from qviz.notebook_live import WIDGET
from qviz.notebook_picker import RangePicker
from qviz.recipe import Recipe

BELL = collect(torch.randn(20_000, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    return install(monkeypatch)


def calibration(*, symmetric: bool = True) -> Calibration:
    return Calibration({"conv": BELL}, 8, Grid(symmetric=symmetric))


def picked(*, symmetric: bool = True, start: str | None = None) -> RangePicker:
    return RangePicker(calibration(symmetric=symmetric), "conv", start=start)


def drag(picker: RangePicker, *ends: float) -> None:
    """What the page sends when a box has been drawn."""
    picker._selected(None, None, SimpleNamespace(xrange=ends))


def test_it_starts_at_the_candidate_with_the_highest_sqnr() -> None:
    picker = picked()
    best = max(calibration().candidates["conv"], key=lambda c: c.sqnr_db)
    assert picker.range == best.range
    assert picker._menu.value == best.calibrator


def test_it_starts_where_it_is_told_to() -> None:
    assert picked(start="max").range == ClipRange(-BELL.amax, BELL.amax)


def test_what_it_says_of_a_range_is_what_the_histogram_says() -> None:
    picker = picked()
    picker.choose(-2.0, 2.0)
    quality = describe(BELL, ClipRange(-2.0, 2.0), Grid())
    one = picker.candidate
    assert (one.clipped_fraction, one.mse, one.sqnr_db) == (
        quality.clipped_fraction,
        quality.mse,
        quality.sqnr_db,
    )
    assert one.scale == pytest.approx(2.0 / 127)
    share = quality.clipping_mse / quality.mse
    text = (
        f"-2 to 2, step 0.0157, clipped {quality.clipped_fraction:.4%}, "
        f"SQNR {quality.sqnr_db:.2f} dB (expected); "
        f"error {share:.0%} clipping, {1 - share:.0%} rounding"
    )
    assert text in picker._numbers.value
    assert repr(picker) == f"<RangePicker of conv: {text}>"


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((-1.0, 2.0), (-2.0, 2.0)), ((2.0, 1.0), (-2.0, 2.0)), ((-3.0, -1.0), (-3.0, 3.0))],
)
def test_a_box_on_a_symmetric_grid_is_mirrored_to_its_larger_side(
    ends: tuple[float, float], expected: tuple[float, float]
) -> None:
    picker = picked()
    drag(picker, *ends)
    assert picker.range == ClipRange(*expected)


def test_a_box_on_an_affine_grid_is_taken_as_it_is_and_holds_zero() -> None:
    picker = picked(symmetric=False)
    drag(picker, -1.0, 2.0)
    assert picker.range == ClipRange(-1.0, 2.0)
    drag(picker, 1.0, 2.0)
    assert picker.range == ClipRange(0.0, 2.0)


def test_a_box_is_gone_once_it_is_read_and_its_going_chooses_nothing() -> None:
    picker = picked()
    drag(picker, -1.0, 1.0)
    assert picker._figure.layout.selections == ()
    picker._selected(None, None, None)
    assert picker.range == ClipRange(-1.0, 1.0)


@pytest.mark.parametrize("side", ["_lo", "_hi"])
def test_on_a_symmetric_grid_the_limit_that_is_typed_decides(side: str) -> None:
    picker = picked()
    getattr(picker, side).value = -1.5
    assert picker.range == ClipRange(-1.5, 1.5)
    assert (picker._lo.value, picker._hi.value) == (-1.5, 1.5)


def test_on_an_affine_grid_each_limit_is_typed_by_itself() -> None:
    picker = picked(symmetric=False)
    picker.choose(-1.0, 1.0)
    picker._hi.value = 3.0
    assert picker.range == ClipRange(-1.0, 3.0)


def test_what_makes_no_range_is_said_and_changes_nothing() -> None:
    picker = picked()
    picker.choose(-1.0, 1.0)
    picker._hi.value = float("nan")
    assert picker.range == ClipRange(-1.0, 1.0)
    assert "Pass a value in that range" in picker._numbers.value


def test_a_candidate_is_taken_from_the_menu() -> None:
    picker = picked()
    picker._menu.value = "max"
    assert picker.range == ClipRange(-BELL.amax, BELL.amax)
    picker.choose(-1.0, 1.0)
    assert picker._menu.value == "by hand"


def test_the_line_on_the_histogram_follows() -> None:
    picker = picked()
    picker.choose(-1.25, 1.25)
    drawn = picker._figure.data[-1]
    assert set(drawn.x[~torch.tensor(drawn.x).isnan().numpy()]) == {-1.25, 1.25}
    assert "range -1.25 to 1.25" in drawn.hovertemplate


def test_applying_gives_a_recipe_with_that_range() -> None:
    picker = picked()
    picker.choose(-1.0, 1.0)
    recipe = picker.apply(Recipe())
    assert recipe == Recipe().with_range("conv", -1.0, 1.0)


def test_a_session_is_calibrated_and_an_operand_stands_for_what_it_reads() -> None:
    from qviz.opening import open as open_session

    session = open_session(torch.nn.Linear(4, 2), torch.randn(40, 4))
    assert RangePicker(session, "linear/input").tensor == "input"


def test_a_cell_shows_the_widgets_and_closing_leaves_the_plain_picture(shell: Shell) -> None:
    before = set(registry._instances)
    picker = picked()
    figure: Any = picker._figure
    shell.run(picker)
    assert [WIDGET in output for output in shell.shown] == [True]
    picker.choose(-1.0, 1.0)
    picker.close()
    assert len(figures(shell.shown)) == 1
    assert [WIDGET in output for output in shell.shown] == [False, False]
    assert ">custom</td>" in shell.shown[1]["text/html"]
    assert set(registry._instances) == before
    assert len(str(figure._esm)) == 0  # 5 MB in every saved notebook


def test_a_closed_picker_still_chooses_and_is_shown_plain(shell: Shell) -> None:
    picker = picked()
    picker.close()
    picker.close()
    picker.choose(-1.0, 1.0)
    assert picker.apply(Recipe()).range_of["conv"].hi == 1.0
    shell.run(picker)
    assert not any(WIDGET in output for output in shell.shown)
    assert len(figures(shell.shown)) == 1


def test_a_cell_that_runs_again_closes_the_picker_it_made_before(shell: Shell) -> None:
    made = calibration()
    first = RangePicker(made, "conv")
    shell.run(first)
    RangePicker(made, "conv")
    assert [WIDGET in output for output in shell.shown] == [False, False]


def test_in_a_terminal_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    picker = picked()
    picker._ipython_display_()
    assert capsys.readouterr().out == f"{repr(picker)[len('<RangePicker of ') : -1]}\n"


def test_an_unknown_tensor_is_named_with_those_like_it() -> None:
    with pytest.raises(DataError) as caught:
        RangePicker(calibration(), "conv1")
    assert str(caught.value) == "tensor conv1: was not calibrated. Did you mean conv."


def test_an_unknown_candidate_is_told_from_those_there_are() -> None:
    with pytest.raises(RangeError) as caught:
        picked(start="median")
    assert str(caught.value).startswith(
        "median: is no candidate of conv. Take one of max, entropy,"
    )


@pytest.mark.parametrize("name", ["plotly", "anywidget", "ipywidgets"])
def test_without_its_extra_it_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError) as caught:
        notebook.RangePicker(calibration(), "conv")
    assert str(caught.value) == (
        f"RangePicker: {name} is not installed. Install it: pip install 'qviz[notebook]'."
    )
