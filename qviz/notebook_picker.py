"""RangePicker: choose the range of one tensor on its histogram, and see at once what it costs."""

from __future__ import annotations

import importlib
import weakref
from dataclasses import astuple
from typing import Any

from qviz.calibration import Calibration
from qviz.calibrators import CALIBRATORS, Candidate, ClipRange
from qviz.errors import MissingExtraError, QvizError, RangeError
from qviz.histogram_cost import costs
from qviz.notebook_html import Table, View, page
from qviz.notebook_live import close_widgets, widget_bundle
from qviz.notebook_ranges import found
from qviz.notebook_show import CURE, Place, bundle, draws, figure_bundle, shell, show
from qviz.recipe import Recipe
from qviz.session import Session
from qviz.tables import candidates_table

#: What the chosen range is called among the candidates.
CHOSEN = "fixed"
#: Open pickers by tensor: a cell that runs again closes the one it made before.
_OPEN: weakref.WeakValueDictionary[tuple[int, str], RangePicker] = weakref.WeakValueDictionary()


class RangePicker:
    """The histogram of a tensor on which a range is selected: by dragging, by number, by name.

    Drag over the histogram, type the limits, or take a candidate; clipped share, step, SQNR and
    the split of the error follow at once, all expected values from the histogram. On a symmetric
    grid the range is mirrored to its larger side.

    Args:
        source: of the histogram; a session is calibrated if it is not yet.
        tensor: its name, or that of an operand that reads it (``conv1/input``) of a session.
        start: candidate to start from; None is the one with the highest SQNR.

    Attributes:
        tensor: whose range it is.

    Raises:
        DataError: there is no such tensor, or it saw no data.
        MissingExtraError: plotly, anywidget or ipywidgets is not installed.
    """

    def __init__(
        self, source: Session | Calibration, tensor: str, *, start: str | None = None
    ) -> None:
        widgets = _widgets()
        calibration, tensor = found(source, tensor)
        self.tensor = tensor
        self._calibration = calibration  # held, so that its id stays its own in _OPEN
        self._histogram = calibration.histograms[tensor]
        self._grid = calibration.grid
        self._candidates = calibration.candidates[tensor]
        self._best = max(self._candidates, key=lambda c: c.sqnr_db)
        self._chosen = self._costed((self._best if start is None else self._named(start)).range)
        self._places: list[tuple[Place, Place]] = []
        self._following = False
        self._open = True
        self._build(widgets)
        key = (id(calibration), tensor)
        if (earlier := _OPEN.get(key)) is not None:
            earlier.close()
        _OPEN[key] = self

    @property
    def range(self) -> ClipRange:
        """The range chosen."""
        return self._chosen.range

    @property
    def candidate(self) -> Candidate:
        """The range chosen with what it costs: expected values, from the histogram."""
        return self._chosen

    def choose(self, lo: float, hi: float) -> None:
        """Choose a range by its limits; it is widened to hold 0, and mirrored if it has to be.

        Raises:
            RangeError: a limit is not a finite number, or ``lo`` is above ``hi``.
        """
        self._follow(CALIBRATORS["fixed"](self._histogram, self._grid, lo=lo, hi=hi))

    def take(self, calibrator: str) -> None:
        """Choose a candidate's range.

        Raises:
            RangeError: there is no such candidate.
        """
        self._follow(self._named(calibrator).range)

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with the range chosen for this tensor."""
        return recipe.with_range(self.tensor, self.range.lo, self.range.hi)

    def close(self) -> None:
        """Put the plain figure and table in the place of the widgets, so that saving is cheap."""
        if not self._open:
            return
        self._open = False
        shown = self._view()
        for figure, rest in self._places:
            figure.fill(figure_bundle(shown))
            rest.fill(bundle(shown))
        # Who runs a notebook as a script keeps the last state of a closed widget: not with the
        # 5 MB of JavaScript that every figure widget brings along.
        self._figure._esm = ""
        close_widgets(self._box)

    def __repr__(self) -> str:
        return f"<RangePicker of {self.tensor}: {_line(self._chosen)}>"

    def _ipython_display_(self) -> None:
        ip = shell()
        if not draws(ip) or not self._open:
            show(self._view())
            return
        # two outputs, because that is what the plain picture will need
        figure = Place(ip, {"text/html": "", "text/plain": ""})
        self._places.append((figure, Place(ip, widget_bundle(self._box, repr(self)))))

    def _build(self, widgets: Any) -> None:  # noqa: ANN401 - not always installed
        from plotly.graph_objects import FigureWidget

        from qviz.figures import CONFIG

        self._figure = FigureWidget(self._drawn())
        self._figure._config = dict(CONFIG)
        self._figure.update_layout(template="plotly_white", dragmode="select", selectdirection="h")
        self._figure.data[0].on_selection(self._selected)
        self._lo = widgets.FloatText(description="from")
        self._hi = widgets.FloatText(description="to")
        names = [c.calibrator for c in self._candidates]
        self._menu = widgets.Dropdown(options=["by hand", *names], description="candidate")
        self._numbers = widgets.HTML()
        head = widgets.HBox([self._lo, self._hi, self._menu], layout={"flex_flow": "row wrap"})
        self._box = widgets.VBox([self._figure, head, self._numbers])
        self._follow(self.range)
        for widget in (self._lo, self._hi):
            widget.observe(self._typed, "value")
        self._menu.observe(self._named_in_menu, "value")

    def _follow(self, chosen: ClipRange) -> None:
        """Move everything on the page to a range."""
        from qviz.figures import histogram_figure

        self._chosen = self._costed(chosen)
        if not self._open:
            return
        line = histogram_figure(self._histogram, [self._chosen], selected=CHOSEN).data[-1]
        same = (c.calibrator for c in self._candidates if c.range == chosen)
        self._following = True
        try:
            self._figure.data[-1].update(x=line.x, hovertemplate=line.hovertemplate)
            # as many digits as a person types; the range itself keeps all
            self._lo.value, self._hi.value = (float(f"{x:.5g}") for x in (chosen.lo, chosen.hi))
            self._menu.value = next(same, "by hand")
        finally:
            self._following = False
        best = f"Best candidate: {self._best.calibrator}, {self._best.sqnr_db:.2f} dB."
        self._numbers.value = page(_line(self._chosen), (best,))

    def _selected(self, trace: Any, points: Any, box: Any) -> None:  # noqa: ANN401
        if box is None or getattr(box, "xrange", None) is None:
            return
        lo, hi = sorted(float(end) for end in box.xrange)
        self._try(lo, hi)
        # The box has said what it had to. Only a change is sent to the page, which draws it though
        # this side does not know of it.
        self._figure.layout.selections = [{"x0": lo, "x1": hi, "y0": 1, "y1": 2}]
        self._figure.layout.selections = []

    def _typed(self, change: Any) -> None:  # noqa: ANN401 - a traitlets Bunch
        if self._following:
            return
        lo, hi = self._lo.value, self._hi.value
        if self._grid.symmetric:  # the limit that was typed decides
            lo, hi = -abs(change.new), abs(change.new)
        self._try(lo, hi)

    def _named_in_menu(self, change: Any) -> None:  # noqa: ANN401
        if not self._following and change.new != "by hand":
            self.take(change.new)

    def _try(self, lo: float, hi: float) -> None:
        try:
            self.choose(lo, hi)
        except QvizError as failure:  # there is nobody above to catch it
            self._numbers.value = page(str(failure))

    def _named(self, calibrator: str) -> Candidate:
        for one in self._candidates:
            if one.calibrator == calibrator:
                return one
        names = ", ".join(c.calibrator for c in self._candidates)
        raise RangeError(calibrator, f"is no candidate of {self.tensor}", f"Take one of {names}")

    def _costed(self, chosen: ClipRange) -> Candidate:
        (quality,), (scale,) = costs(self._histogram, [chosen], self._grid)
        return Candidate(CHOSEN, chosen, scale, *astuple(quality))

    def _view(self) -> View:
        from qviz.figures_ranges import CUSTOM

        frame = candidates_table((*self._candidates, self._chosen)).replace(CHOSEN, CUSTOM)
        return View(f"{self.tensor}: {_line(self._chosen)}", (), (Table(frame),), self._drawn)

    def _drawn(self) -> Any:  # noqa: ANN401 - plotly has no types
        from qviz.figures_ranges import range_figure

        rows = [*self._candidates, self._chosen]
        return range_figure(self._histogram, rows, selected=CHOSEN, revision=self.tensor)


def _line(chosen: Candidate) -> str:
    """A range and what it costs."""
    total = chosen.mse or 1.0
    return (
        f"{chosen.range.lo:.4g} to {chosen.range.hi:.4g}, step {chosen.scale:.3g}, "
        f"clipped {chosen.clipped_fraction:.4%}, SQNR {chosen.sqnr_db:.2f} dB (expected); "
        f"error {chosen.clipping_mse / total:.0%} clipping, "
        f"{chosen.rounding_mse / total:.0%} rounding"
    )


def _widgets() -> Any:  # noqa: ANN401
    """The module ipywidgets, once everything that a figure widget needs is there."""
    for name in ("plotly", "anywidget", "ipywidgets"):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError("RangePicker", f"{name} is not installed", CURE) from error
    return module
