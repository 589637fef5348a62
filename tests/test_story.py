"""The whole work in a real browser, as one visitor does it; and what a server owes its visitors."""

from __future__ import annotations

import http.client
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import torch
from browser_kit import PATIENCE, browser, go, server, settled, tab
from fewer_samples import fewer_samples

from qviz.int8.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

PLOT = ".js-plotly-plot .main-svg"
#: A button with a tooltip is there twice, for wide and for narrow screens.
NOTHING_TO_UNDO = """() => {
    const buttons = [...document.querySelectorAll('.st-key-ranges_undo button')];
    return buttons.length > 0 && buttons.every((one) => one.disabled);
}"""
WIDE = {"width": 1400, "height": 1100}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QVIZ_SAMPLES", str(fewer_samples(folder, 400)))
        yield folder


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    with server(runs) as made:
        yield made


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    made = chrome.new_page(viewport={"width": 1400, "height": 1100})
    made.set_default_timeout(PATIENCE)
    yield made
    made.close()


def press(page: Page, key: str) -> None:
    """Press the button of that key and wait for what it does."""
    page.locator(f".st-key-{key} button:not([disabled])").first.click()
    settled(page)


def text(page: Page, wanted: str | re.Pattern[str]) -> Locator:
    """Wait for a text on the page."""
    found = page.get_by_text(wanted).first
    found.wait_for(timeout=PATIENCE)
    return found


def drag(page: Page, by: float) -> None:
    """Drag the upper limit of the range."""
    box = page.locator(".qviz-limit[data-limit=hi]").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by / 2, y, steps=4)
    page.mouse.move(x + by, y, steps=4)
    page.mouse.up()


def test_from_the_sample_to_a_verified_checkpoint(page: Page, address: str, runs: Path) -> None:
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))

    # one click to a real histogram
    go(page, address, "button:has-text('Try the sample')")
    page.get_by_role("button", name="Try the sample").click()
    page.wait_for_selector("h1:has-text('Ranges')")

    # a limit is dragged: the draft changes, and its metric is measured
    before = page.locator(".qviz-cost").inner_text()
    drag(page, -120)
    page.wait_for_selector(".st-key-ranges_undo button:not([disabled])")
    assert page.locator(".qviz-cost").inner_text() != before
    text(page, re.compile("measured on (all )?[0-9,]+"))

    # sensitivity: rows stream in, Cancel keeps them, Run goes on from there
    tab(page, "Sensitivity")
    press(page, "sensitivity_run")
    text(page, re.compile("Measured [1-9][0-9]* of 35"))
    page.get_by_role("button", name="Cancel").first.click()
    text(page, re.compile("Cancelled. .* can be used.*Run goes on from there"))
    press(page, "sensitivity_run")
    page.get_by_text(re.compile("Cancelled")).first.wait_for(state="detached", timeout=PATIENCE)
    settled(page)
    page.get_by_role("button", name="Cancel").first.wait_for(state="detached", timeout=PATIENCE)
    settled(page)
    assert page.get_by_text(re.compile("Cancelled")).count() == 0

    # the worst stay in float, and a reload loses nothing
    press(page, "sensitivity_skip")
    page.wait_for_selector(".st-key-sensitivity_undo button:not([disabled])")
    page.reload()
    page.wait_for_selector("h1:has-text('Sensitivity')")
    settled(page)
    tab(page, "Plan")
    text(page, "3 of 35 ops")

    # two variants on the same samples
    page.get_by_label("Save the draft as").fill("worst three")
    page.get_by_label("Save the draft as").press("Enter")
    settled(page)
    press(page, "variant_save")
    press(page, "compare_go")
    text(page, re.compile("^A: "))
    text(page, re.compile("answers differ from float's"))

    # the checkpoint, with its proof
    tab(page, "Export")
    press(page, "export_start")
    text(page, "What was written")
    (folder,) = runs.glob("kept/*/export")
    assert load_checkpoint(folder)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)

    # and all of it without asking anything of another host
    assert hosts - {None, ""} == {"127.0.0.1"}


def test_a_method_of_win_back_is_run_used_and_taken_back(page: Page, address: str) -> None:
    go(page, f"{address}/tune?sample=resnet", ".st-key-tune_run_ifmr button:not([disabled])")
    press(page, "tune_run_bias_correction")
    text(page, re.compile("top1 .* → .*, .*95 %"))
    press(page, "tune_last_use")
    text(page, "The draft has tuned weights.")
    field = page.locator(".st-key-tune_last_name input")
    field.fill("mine")
    field.press("Control+z")  # takes back the typing, not the step
    settled(page)
    text(page, "The draft has tuned weights.")
    page.locator("h1").click()
    page.keyboard.press("Control+z")
    page.get_by_text("The draft has tuned weights.").wait_for(state="detached")


def test_two_visitors_do_not_see_each_others_draft(chrome: Browser, address: str) -> None:
    one, two = (chrome.new_context(viewport=WIDE).new_page() for _ in range(2))  # type: ignore[arg-type]
    for visitor in (one, two):
        visitor.set_default_timeout(PATIENCE)
        go(visitor, f"{address}/ranges?sample=resnet", ".qviz-limit[data-limit=hi]")
    drag(one, -100)
    one.wait_for_selector(".st-key-ranges_undo button:not([disabled])")
    two.get_by_role("button", name="Next op").click()
    settled(two)
    two.wait_for_function(NOTHING_TO_UNDO)
    for visitor in (one, two):
        visitor.context.close()


def test_the_address_finds_the_work_again_in_another_tab(chrome: Browser, address: str) -> None:
    context = chrome.new_context()
    first = context.new_page()
    first.set_default_timeout(PATIENCE)
    go(first, f"{address}/ranges?sample=resnet", ".qviz-limit[data-limit=hi]")
    drag(first, -60)
    first.wait_for_selector(".st-key-ranges_undo button:not([disabled])")
    second = context.new_page()
    second.set_default_timeout(PATIENCE)
    go(second, first.url, ".st-key-ranges_undo button:not([disabled])")
    context.close()


def test_a_narrow_screen_shows_every_page_without_scrolling_sideways(
    chrome: Browser, address: str
) -> None:
    narrow = chrome.new_page(viewport={"width": 420, "height": 900}, color_scheme="dark")
    narrow.set_default_timeout(PATIENCE)
    for name in ("ranges", "overview", "sensitivity", "plan", "tune", "export"):
        go(narrow, f"{address}/{name}?sample=resnet", "h1")
        wide = narrow.evaluate("document.documentElement.scrollWidth")
        assert wide <= 420, name
    narrow.close()


def test_another_host_name_is_refused(address: str) -> None:
    port = urlsplit(address).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {
        "Host": f"evil.example:{port}",
        "Origin": f"http://evil.example:{port}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    connection.request("GET", "/_stcore/stream", headers=headers)
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.usefixtures("runs")
def test_ctrl_c_ends_the_server_while_a_job_runs(page: Page, tmp_path: Path) -> None:
    with server(tmp_path) as address:
        go(page, f"{address}/sensitivity?sample=efficientnet", ".st-key-sensitivity_run button")
        press(page, "sensitivity_run")
        page.get_by_role("button", name="Cancel").first.wait_for()
        pid = int((tmp_path / "server.pid").read_text())
        began = time.monotonic()
        os.kill(pid, signal.SIGINT)
        while _alive(pid):
            assert time.monotonic() - began < 15
            time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False
