"""What the pages share: one calibrated model per choice, kept for all visits of this server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import streamlit as st

import qviz.session
from qviz.progress import Progress
from qviz.samples import samples
from qviz.session import Calibration, Session
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
    if asked.model is None or asked in shipped:
        return shipped
    return [asked, *shipped]


def opened(choice: Start, progress: Callable[[Progress], None]) -> Opened:
    """Load and calibrate a model, or return it if that has been done.

    Args:
        choice: one of ``choices``.
        progress: told how far the calibration is; not called if it has been done.

    Raises:
        QvizError: the model or its data cannot be used.
    """
    kept = _kept()
    with kept.lock:
        if choice not in kept.models:
            session = qviz.session.open(
                str(choice.model),
                calibration=choice.calibration,
                evaluation=choice.evaluation,
                run_dir=choice.run,
            )
            kept.models[choice] = Opened(session, session.calibrate(progress=progress))
        return kept.models[choice]
