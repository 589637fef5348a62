"""How ranges look in a cell: the calibration of a model, one tensor with its candidates."""

from __future__ import annotations

import difflib

import pandas as pd

from qviz import tables
from qviz.calibration import Calibration
from qviz.calibrators import Candidate
from qviz.errors import DataError
from qviz.histogram import Histogram
from qviz.notebook_html import Table, View
from qviz.session import Session


def calibration_view(calibration: Calibration) -> View:
    """Every tensor's range, and the histogram of the one that loses most."""
    frame = tables.tensors_table(calibration.histograms, calibration.candidates)
    text = f"Calibration: {len(frame)} tensors, {calibration.samples:,} samples"
    known = frame.dropna(subset="sqnr_db").sort_values("sqnr_db")
    if known.empty:
        return View(text, tables=(Table(frame),))
    worst = str(known["tensor"].iloc[0])
    note = (
        f"The histogram is that of `{worst}`, which loses most under its best candidate; "
        "`qviz.notebook.ranges(calibration, NAME)` shows another tensor."
    )
    figure = ranges_view(calibration, worst).figure
    return View(text, (note,), (Table(frame),), figure)


def ranges_view(calibration: Calibration, tensor: str) -> View:
    """One tensor's histogram with its candidates, and what each costs.

    Raises:
        DataError: the tensor was not calibrated, or saw no data.
    """
    histogram = histogram_of(calibration, tensor)
    candidates = calibration.candidates[tensor]

    def figure() -> object:
        from qviz.figures import histogram_figure

        return histogram_figure(histogram, candidates, name=tensor)

    text = f"{tensor}: {histogram.size:,} values from {calibration.samples:,} samples"
    return View(text, (), (Table(tables.candidates_table(candidates)),), figure)


def found(source: Session | Calibration, name: str) -> tuple[Calibration, str]:
    """The calibration, and the tensor that a name means: its own, or an operand that reads it.

    Raises:
        DataError: there is no such tensor, or it saw no data.
    """
    if isinstance(source, Calibration):
        calibration = source
    else:
        calibration = source.calibrate()
        operand = source.graph.operands.get(name)
        name = name if operand is None else operand.tensor
        op = source.graph.ops.get(name)
        if name not in calibration.histograms and op is not None and op.operands:
            inputs = [o.name for o in op.operands if o.kind == "activation"]
            cure = f"To see what it reads, name {' or '.join(inputs)}"
            raise DataError(f"tensor {name}", "is read by nothing that can be int8", cure)
    histogram_of(calibration, name)
    return calibration, name


def histogram_of(calibration: Calibration, tensor: str) -> Histogram:
    """The histogram of a tensor that has a range.

    Raises:
        DataError: the tensor was not calibrated, or saw no data.
    """
    if tensor not in calibration.histograms:
        near = difflib.get_close_matches(tensor, list(calibration.histograms), 3, 0.4)
        cure = f"Did you mean {' or '.join(near)}" if near else "Name one of calibration.histograms"
        raise DataError(f"tensor {tensor}", "was not calibrated", cure)
    histogram = calibration.histograms[tensor]
    if not histogram.finite:
        cure = "Calibrate with samples that reach it"
        raise DataError(f"tensor {tensor}", "saw no finite value, so it has no range", cure)
    return histogram


def histogram_view(histogram: Histogram) -> View:
    """The values of one tensor."""

    def figure() -> object:
        from qviz.figures import histogram_figure

        return histogram_figure(histogram)

    h = histogram
    text = f"Histogram: {h.size:,} values"
    if not h.finite:
        return View(f"{text}, none of them finite", figure=figure)
    row = (h.min, h.max, h.mean, h.std, 100 * h.zero_fraction, h.nans + h.infs)
    names = ["min", "max", "mean", "standard deviation", "zeros_percent", "not_finite"]
    frame = pd.DataFrame([row], columns=names)
    return View(f"{text} from {h.min:.4g} to {h.max:.4g}", (), (Table(frame),), figure)


def candidates_view(rows: tuple[Candidate, ...]) -> View:
    """What each candidate range of one tensor costs."""
    return View(
        f"Candidate ranges: {len(rows)}; errors are expected values, from the histogram",
        tables=(Table(tables.candidates_table(rows)),),
    )
