"""Numbers for a person: three significant digits, units, signed changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qviz.intervals import Interval
    from qviz.metrics import Metric


def number(value: float | None, *, signed: bool = False) -> str:
    """Three significant digits: ``0.0123``, ``45.0``, ``1.20e-05``; "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    if not value or math.isinf(value):
        return f"{value:{'+' if signed and value else ''}g}".removeprefix("-" if not value else " ")
    rounded = float(f"{value:.2e}")
    sign = "+" if signed else ""
    power = math.floor(math.log10(abs(rounded)))
    if -4 <= power < 5:
        return f"{rounded:{sign}.{max(0, 2 - power)}f}"
    return f"{rounded:{sign}.2e}"


def percent(value: float | None, *, signed: bool = False) -> str:
    """``0.0123`` as ``1.23 %``."""
    if value is not None and abs(value) < 1e-12:  # a sum of changes that cancel
        value = 0.0
    return "-" if value is None else f"{number(100 * value, signed=signed)} %"


def span(interval: Interval | None) -> str:
    """A relative interval: ``-1.20 % to +0.30 %``."""
    if interval is None:
        return "-"
    return f"{percent(interval.low, signed=True)} to {percent(interval.high, signed=True)}"


def count(value: float) -> str:
    """A count with its unit prefix: ``940``, ``12.3 M``."""
    for step, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= step * 0.9995:
            return f"{number(value / step)}{prefix}"
    return f"{value:g}"


def scored(value: float, metric: Metric) -> str:
    """A value of a metric with its unit."""
    if metric.unit == "fraction":
        return percent(value)
    return f"{number(value)} {metric.unit}".rstrip()


def duration(seconds: float) -> str:
    """``8.1 s``, ``45 s``, ``2 min 05 s`` or ``1 h 20 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
