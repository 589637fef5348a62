"""A server with the app, and Chromium to click through it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
#: A busy machine needs its time; nothing waits this long when all is well. In ms.
PATIENCE = 90_000

SETTLED = "[data-testid=stApp][data-test-script-state=notRunning]"


def chromium() -> str:
    """Path of the browser; skips the test if there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: install it with the system's package manager")
    return found


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def server(runs: Path, *words: str) -> Iterator[str]:
    """``qviz app`` with these words; gives its address.

    Args:
        runs: folder in which it keeps its runs.
        words: further words of the command line.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "qviz", "app", *words, "--port", str(port), "--headless"]
    log = runs / "server.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=runs,
            env={**os.environ, "PYTHONPATH": path, "QVIZ_RUNS": str(runs / "kept")},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        (runs / "server.pid").write_text(str(process.pid))
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + PATIENCE / 1000
            while not _healthy(address):
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def settled(page: Page) -> None:
    """Wait until the page's script has ended and what it replaces is gone."""
    page.wait_for_selector(SETTLED, timeout=PATIENCE)
    page.wait_for_function("!document.querySelector('[data-stale=true]')", timeout=PATIENCE)


def go(page: Page, address: str, wait_for: str = SETTLED) -> None:
    """Open an address and wait for something on it."""
    page.goto(address, timeout=PATIENCE)
    page.wait_for_selector(wait_for, timeout=PATIENCE)
    settled(page)


def tab(page: Page, title: str) -> None:
    """Change to another page of the app by its link on top."""
    page.get_by_role("link", name=title, exact=True).click()
    page.wait_for_selector(f"h1:has-text('{title}')", timeout=PATIENCE)
    settled(page)
