"""The app, run as a visitor runs it, and the server that it runs in."""

from __future__ import annotations

import http.client
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

from qviz.ui import launch
from qviz.ui.launch import MAIN, Start, server_options

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of this test are kept."""
    monkeypatch.setenv("QVIZ_RUNS", str(tmp_path))
    return tmp_path


def visit(page: str, **query: str) -> AppTest:
    """A page as it stands once the model is open."""
    at = AppTest.from_file(str(MAIN), default_timeout=120)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    at.switch_page(f"../../pages/{page}.py")
    deadline = time.monotonic() + 120
    while not at.run().get("bidi_component") and not at.error:
        assert time.monotonic() < deadline, "the model did not open"
        assert not at.exception
    return at


@pytest.mark.usefixtures("runs")
def test_an_op_in_the_address_that_does_not_exist_is_said() -> None:
    at = visit("ranges", sample="resnet", layer="layer1.0.conv9")
    assert not at.exception
    assert [one.value for one in at.sidebar.warning] == [
        "ResNet has no op named 'layer1.0.conv9'; this is layer1.0.conv2."
    ]


@pytest.mark.usefixtures("runs")
def test_a_model_that_cannot_be_opened_is_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_start", Start(model="sample:none"))
    at = visit("ranges")
    assert not at.exception
    (error,) = at.error
    assert error.value.startswith("sample:none: ")


def test_launch_hands_the_model_and_the_port_to_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_start", Start())
    seen: list[object] = []
    monkeypatch.setattr(st.App, "run", lambda _, *, config: seen.append(config))
    launch.launch(Start(model="m.pt2", calibration="c.npz"), port=8600, headless=True)
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


def test_a_visitors_own_modules_are_not_hidden_by_files_of_the_package() -> None:
    AppTest.from_file(str(MAIN), default_timeout=60).run()
    assert not {str(MAIN.parent), str(MAIN.parent.parent)} & set(sys.path)
