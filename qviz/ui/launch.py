"""Start the app's server from Python: what ``qviz app`` and ``app.py`` share.

The server binds the loopback address and answers only requests that name it, so that neither the
network nor a page of another site can reach it. It sends nothing anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qviz.errors import MissingExtraError

#: The script that Streamlit runs for every visit.
MAIN = Path(__file__).with_name("main.py")

Option = str | int | bool | list[str]


@dataclass(frozen=True)
class Start:
    """What the app opens first.

    Attributes:
        model: as on the command line: ``sample:NAME``, a file, or ``module:factory``. None is the
            first sample.
        calibration: as on the command line; None for a sample, which brings its own.
        evaluation: likewise.
        run: a run folder to write to and go on from, if any.
        weights: put into what a factory built.
        preprocessing: TOML file of what is done to pixels.
        profile: whose rules the candidate ranges follow.
    """

    model: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    run: str | None = None
    weights: str | None = None
    preprocessing: str | None = None
    profile: str = "cuda"


# The server runs in the process that called `launch`, so the pages can read it from here.
_start = Start()


def start() -> Start:
    """What ``launch`` was asked to open."""
    return _start


def server_options(*, port: int | None = None, headless: bool = False) -> dict[str, Option]:
    """Streamlit options for a server on this machine only.

    Args:
        port: exactly this one; without it the first free one from 8501 on.
        headless: do not open a browser.
    """
    options: dict[str, Option] = {
        "server.address": "127.0.0.1",
        # Without it a page of another site can reach the app through DNS rebinding.
        "server.allowedHosts": ["127.0.0.1", "localhost"],
        "server.fileWatcherType": "none",
        "server.maxUploadSize": 512,
        "server.showEmailPrompt": False,
        "browser.gatherUsageStats": False,
        # "Clear caches" in the developer menu would drop running work.
        "client.toolbarMode": "minimal",
        "theme.light.primaryColor": "#0072B2",
        "theme.dark.primaryColor": "#56B4E9",
    }
    # Only what was asked for: left alone, Streamlit looks for a display and for a free port.
    if headless:
        options["server.headless"] = True
    if port is not None:
        options["server.port"] = port
    return options


def launch(
    model: str | None = None,
    calibration: str | None = None,
    evaluation: str | None = None,
    run: str | None = None,
    *,
    weights: str | None = None,
    preprocessing: str | None = None,
    profile: str = "cuda",
    port: int | None = None,
    headless: bool = False,
) -> None:
    """Serve the app until it is stopped (Ctrl-C).

    Args:
        model: see ``Start``, like the six below.
        calibration: see ``Start``.
        evaluation: see ``Start``.
        run: see ``Start``.
        weights: see ``Start``.
        preprocessing: see ``Start``.
        profile: see ``Start``.
        port: see ``server_options``.
        headless: see ``server_options``.

    Raises:
        MissingExtraError: streamlit is not installed.
    """
    global _start
    try:
        import streamlit as st
    except ImportError as error:
        raise MissingExtraError(
            "app", "streamlit is not installed", "Install it: pip install 'qviz[app]'"
        ) from error
    _start = Start(model, calibration, evaluation, run, weights, preprocessing, profile)
    st.App(MAIN).run(config=server_options(port=port, headless=headless))
