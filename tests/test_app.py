"""The app, run as a visitor runs it, and the server that it runs in."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.web.server.app_discovery import discover_asgi_app

from qviz.samples import samples
from qviz.ui import launch, words, workbench
from qviz.ui.launch import MAIN, Start, server_options

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def visit() -> AppTest:
    """The page as it stands after the first visit; the sample is calibrated once."""
    return AppTest.from_file(str(MAIN), default_timeout=120).run()


def drawn(visit: AppTest) -> list[str]:
    """Names of the traces in the picture."""
    spec = json.loads(visit.get("plotly_chart")[0].proto.spec)
    return [trace["name"] for trace in spec["data"]]


def test_the_first_visit_shows_a_sample_with_no_click(visit: AppTest) -> None:
    assert not visit.exception
    assert [title.value for title in visit.title] == ["Ranges"]
    assert visit.selectbox(key="model").options == [sample.name for sample in samples()]
    assert drawn(visit)[0] == "values"


def test_picture_and_table_show_the_same_candidates(visit: AppTest) -> None:
    table = visit.dataframe[0].value
    assert drawn(visit)[1:] == table["calibrator"].tolist()
    assert {"max", "entropy", "mse", "sqnr", "percentile:99.99"} <= set(table["calibrator"])


def test_the_tensor_that_loses_most_is_shown_first(visit: AppTest) -> None:
    table = visit.dataframe[1].value
    hardest = table.sort_values("sqnr_db")["tensor"].iloc[0]
    assert visit.selectbox(key="tensor").value == hardest


def test_every_calibrated_tensor_can_be_chosen(visit: AppTest) -> None:
    tensors = visit.selectbox(key="tensor").options
    assert visit.dataframe[1].value["tensor"].tolist() == tensors
    before = visit.dataframe[0].value
    other = next(name for name in tensors if name != visit.selectbox(key="tensor").value)
    visit.selectbox(key="tensor").select(other).run()
    assert not visit.exception
    assert not visit.dataframe[0].value.equals(before)


def test_the_page_says_what_it_does_not_do_and_which_command_does(visit: AppTest) -> None:
    assert words.REST in [text.value for text in visit.markdown]
    assert visit.code[0].value == f"qviz run sample:{samples()[0].name} -o out"


def test_another_sample_brings_its_own_tensors(visit: AppTest) -> None:
    before = visit.selectbox(key="tensor").options
    visit.selectbox(key="model").select_index(1).run()
    assert not visit.exception
    assert visit.selectbox(key="tensor").options != before


def test_a_model_that_cannot_be_opened_is_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_start", Start(model="sample:none"))
    visit = AppTest.from_file(str(MAIN), default_timeout=60).run()
    assert not visit.exception
    (error,) = visit.error
    assert error.value.startswith("sample:none: ")
    assert not visit.get("plotly_chart")


def test_the_model_of_the_command_line_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Start(model="m.pt2", calibration="a folder", evaluation="val")
    monkeypatch.setattr(launch, "_start", asked)
    assert workbench.choices()[0] == asked
    assert words.command(asked) == (
        "qviz run m.pt2 --calibration 'a folder' --evaluation val -o out"
    )


def test_launch_hands_the_model_and_the_port_to_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_start", Start())
    seen: list[object] = []
    monkeypatch.setattr(st.App, "run", lambda _, *, config: seen.append(config))
    launch.launch("m.pt2", calibration="c.npz", port=8600, headless=True)
    assert launch.start() == Start(model="m.pt2", calibration="c.npz")
    assert seen == [server_options(port=8600, headless=True)]


def test_the_config_file_and_the_launcher_agree() -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    flat: dict[str, object] = {}
    for section, values in config.items():
        for key, value in values.items():
            if isinstance(value, dict):
                flat |= {f"{section}.{key}.{name}": inner for name, inner in value.items()}
            else:
                flat[f"{section}.{key}"] = value
    assert flat == server_options()


def test_streamlit_run_finds_the_launcher() -> None:
    found = discover_asgi_app(ROOT / "app.py")
    assert found.is_asgi_app


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server started from an unrelated directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from qviz.ui.launch import launch; launch(port={port}, headless=True)"
    folder = tmp_path_factory.mktemp("elsewhere")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while get(port, "/_stcore/health") != 200:
                assert process.poll() is None, "the server stopped"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()


def get(port: int, path: str, host: str = "127.0.0.1", **headers: str) -> int | None:
    """HTTP status of a request, None if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": f"{host}:{port}", **headers})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def test_a_server_started_elsewhere_serves_the_page(server: int) -> None:
    assert get(server, "/") == 200


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 101), ("evil.example", 403)])
def test_only_requests_that_name_this_machine_get_in(server: int, host: str, status: int) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Origin": f"http://{host}:{server}",
    }
    assert get(server, "/_stcore/stream", host, **upgrade) == status
