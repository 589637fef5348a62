"""What the pages share: one calibrated model per choice, kept for all visits of this server."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

import qviz.opening
from qviz.calibration import Calibration
from qviz.progress import Progress
from qviz.samples import samples
from qviz.session import Session
from qviz.ui import words
from qviz.ui.launch import Start, start


@dataclass(frozen=True, eq=False)
class Opened:
    """One model with its statistics."""

    session: Session
    calibration: Calibration


@dataclass(eq=False)
class _Kept:
    """Opened models by choice. The lock makes a second visitor wait instead of work twice."""

    models: dict[Start, Opened] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@st.cache_resource(show_spinner=False)
def _kept() -> _Kept:
    return _Kept()


def choices() -> Sequence[Start]:
    """What can be opened: the model of the command line if there is one, then the samples."""
    asked = start()
    shipped = [Start(model=f"sample:{sample.name}") for sample in samples()]
    if asked.model is None:
        return shipped
    return [asked, *(choice for choice in shipped if choice != asked)]


def opened(choice: Start, bar: DeltaGenerator) -> Opened:
    """Load and calibrate a model, or return it if that has been done.

    Args:
        choice: one of ``choices``.
        bar: a progress bar that shows how far the calibration is.

    Raises:
        QvizError: the model or its data cannot be used.
    """

    def show(step: Progress) -> None:
        bar.progress(min(step.done / max(step.total, 1), 1.0), text=words.progress(step))

    kept = _kept()
    with kept.lock:
        if choice not in kept.models:
            session = qviz.opening.open(
                str(choice.model),
                calibration=choice.calibration,
                evaluation=choice.evaluation,
                weights=choice.weights,
                preprocessing=choice.preprocessing,
                run_dir=choice.run,
                profile=choice.profile,
            )
            kept.models[choice] = Opened(session, session.calibrate(progress=show))
        return kept.models[choice]


def hardest(calibration: Calibration) -> int:
    """Position of the tensor on which even the best candidate errs most: the one to look at."""
    best = [
        max((one.sqnr_db for one in calibration.candidates.get(name, ())), default=math.inf)
        for name in calibration.histograms
    ]
    return best.index(min(best))
