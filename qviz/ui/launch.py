"""Start the app's server from Python: what ``qviz app`` and ``app.py`` share.

The server binds the loopback address and answers only requests that name it, so that neither the
network nor a page of another site can reach it. It sends nothing anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from qviz.errors import MissingExtraError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import FileResponse
    from starlette.routing import BaseRoute

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
        metric: what is measured; None is what suits the data.
        train: samples that methods that train may learn from, if any.
    """

    model: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    run: str | None = None
    weights: str | None = None
    preprocessing: str | None = None
    profile: str = "cuda"
    metric: str | None = None
    # not in the text of it, which names the run folder: an older folder is found again
    train: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Policy:
    """What a visitor may do.

    Attributes:
        allow_code: name a Python factory in the browser; importing it runs its code.
    """

    allow_code: bool = False


# The server runs in the process that called `launch`, so the pages can read it from here.
_start = Start()
_policy = Policy()


def start() -> Start:
    """What ``launch`` was asked to open."""
    return _start


def policy() -> Policy:
    """What ``launch`` allows visitors."""
    return _policy


def routes() -> list[BaseRoute]:
    """What the server serves beside the pages: plotly.js, out of the installed wheel."""
    from starlette.responses import FileResponse
    from starlette.routing import Route

    # nothing is vendored, and nothing comes from another host; plotly itself is not imported
    found = find_spec("plotly")
    folder = Path(str(found.origin if found else "")).parent

    async def script(_: Request) -> FileResponse:
        path = folder / "package_data" / "plotly.min.js"
        return FileResponse(path, headers={"Cache-Control": "max-age=86400"})

    return [Route("/qviz-assets/plotly.min.js", script)]


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
        # After every run, also of a part that polls: a quarter of a second in which no job gets on.
        "runner.postScriptGC": False,
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
    start: Start | None = None,
    *,
    port: int | None = None,
    headless: bool = False,
    allow_code: bool = False,
) -> None:
    """Serve the app until it is stopped (Ctrl-C).

    Args:
        start: what to open first; None shows the landing page.
        port: see ``server_options``.
        headless: see ``server_options``.
        allow_code: see ``Policy``.

    Raises:
        MissingExtraError: streamlit is not installed.
    """
    global _start, _policy
    try:
        import streamlit as st
    except ImportError as error:
        raise MissingExtraError(
            "app", "streamlit is not installed", "Install it: pip install 'qviz[app]'"
        ) from error
    _start = start or Start()
    _policy = Policy(allow_code)
    st.App(MAIN, routes=routes()).run(config=server_options(port=port, headless=headless))
