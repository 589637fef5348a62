"""The app in headless Chromium, on a sample: what a person waits for, in ms.

    python benchmarks/app.py [--turns 9] [--only start,pages,drag,plan,thousand]

Times are wall times from the click (or the key, or the pointer's move) to what it brings being on
the page; medians. Each is given beside its target. They depend on the machine and on what else
runs there, so the load is reported too. Needs Chromium and ``pip install playwright``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from timing import report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# the server and the browser are the tests' own
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browser_kit import PATIENCE, browser, go, server, settled, tab

PLOT = ".js-plotly-plot .main-svg"
LIMIT = ".qviz-limit[data-limit=hi]"
#: A chain of residual blocks: two ops each that can be int8.
THOUSAND = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)
        nn.init.orthogonal_(self.fc.weight, 0.3)

    def forward(self, x):
        return x + torch.relu(self.fc(x))

def model():
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(500)), nn.Linear(16, 4))

def data():
    torch.manual_seed(1)
    return torch.randn(64, 16), torch.zeros(64, dtype=torch.long)
"""
#: Time from a pointer move over a handle to the numbers below the chart having changed.
DRAG = """
() => {
  window.__lags = [];
  const cost = document.querySelector('.qviz-cost');
  let moved = 0;
  addEventListener('pointermove', () => { moved = performance.now(); }, true);
  new MutationObserver(() => {
    if (moved) { window.__lags.push(performance.now() - moved); moved = 0; }
  }).observe(cost, { subtree: true, childList: true, characterData: true });
}
"""

PARTS = ("start", "thousand", "pages", "drag", "plan")

Row = dict[str, object]


def timed(act: Callable[[], object]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def row(what: str, times: list[float], target: float) -> Row:
    """One line of the result: the median, the worst, and the target, in ms."""
    return {
        "what": what,
        "median_ms": statistics.median(times),
        "worst_ms": max(times),
        "target_ms": target,
        "turns": len(times),
    }


def start(chrome: Browser, runs: Path, turns: int) -> Iterator[Row]:
    """From the command to a usable page, and from the click on a sample to its histogram."""
    cold, first, other = [], [], []
    for turn in range(max(1, turns // 3)):
        page = chrome.new_page()
        folder = runs / f"start{turn}"
        folder.mkdir()
        began = time.perf_counter()
        with server(folder) as address:
            go(page, address, "button:has-text('Try the sample')")
            cold.append((time.perf_counter() - began) * 1e3)
            page.wait_for_timeout(8000)  # somebody reads the page; torch is imported meanwhile

            def sample(name: str, page: Page = page) -> None:
                page.get_by_role("button", name=name).first.click()
                # not any plot: the landing page has one too
                page.wait_for_selector(LIMIT, timeout=PATIENCE)

            first.append(timed(lambda: sample("Try the sample")))
            settled(page)
            go(page, address, "button:has-text('Residual CNN')")
            other.append(timed(lambda: sample("Residual CNN")))
        page.close()
    yield row("cold `qviz app` to page usable", cold, 4000)
    yield row("click on the sample to first histogram", first, 1500)
    yield row("click on another sample, not prepared, to first histogram", other, 1500)


def pages(chrome: Browser, address: str, turns: int) -> Iterator[Row]:
    """Change of page and of op."""
    page = chrome.new_page(viewport={"width": 1400, "height": 1000})
    go(page, f"{address}/ranges?sample=resnet", PLOT)
    names = ["Overview", "Sensitivity", "Plan", "Export", "Ranges"]
    for name in names:  # the first visit builds what the others find
        tab(page, name)
    times = [timed(lambda name=name: tab(page, name)) for _ in range(turns) for name in names]
    yield row("page switch", times, 300)
    yield row("op switch", [timed(lambda: next_op(page)) for _ in range(turns)], 300)
    page.close()


def next_op(page: Page) -> None:
    """Press the button for the next op and wait until the page is about it."""
    layer = "new URLSearchParams(location.search).get('layer')"
    before = page.evaluate(layer)
    page.get_by_role("button", name="Next op").click()
    page.wait_for_function(f"before => {layer} !== before", arg=before, timeout=PATIENCE)
    settled(page)


def drag(chrome: Browser, address: str, turns: int) -> Iterator[Row]:
    """Feedback while a limit is dragged, and the metric after it is let go."""
    page = chrome.new_page(viewport={"width": 1400, "height": 1000})
    go(page, f"{address}/ranges?sample=resnet", LIMIT)
    page.evaluate(DRAG)
    handle = page.locator(LIMIT).first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(10 * turns):
        page.mouse.move(x - 2 * (step % 60) - 5, y)
    lags = page.evaluate("window.__lags")
    page.mouse.up()
    settled(page)
    yield row("drag feedback", lags, 100)
    page.close()


def plan(chrome: Browser, address: str, turns: int) -> Iterator[Row]:
    """From a tick to the estimate, and to the metric measured on the live samples."""
    page = chrome.new_page(viewport={"width": 1400, "height": 1200})
    go(page, f"{address}/plan?sample=efficientnet", ".st-key-plan_measured")
    page.get_by_text("measured on all").first.wait_for(timeout=PATIENCE)
    page.wait_for_selector(".st-key-plan_estimated:has-text('%')", timeout=PATIENCE)
    settled(page)
    estimates, measurements = [], []
    for turn in range(turns):
        table = page.locator("[data-testid=stDataFrame]").first.bounding_box()
        assert table is not None
        share = page.locator(".st-key-plan_share").inner_text()
        began = time.perf_counter()
        page.mouse.click(table["x"] + 38, table["y"] + 35 * (turn + 1) + 17)
        page.wait_for_function(
            "before => document.querySelector('.st-key-plan_share').innerText !== before",
            arg=share,
            timeout=PATIENCE,
        )
        estimates.append((time.perf_counter() - began) * 1e3)
        page.wait_for_function(
            "() => { const box = document.querySelector('.st-key-plan_measured');"
            " return box && !document.querySelector('.st-key-plan_older')"
            " && /measured on/.test(box.innerText); }",
            timeout=PATIENCE,
        )
        measurements.append((time.perf_counter() - began) * 1e3)
        page.get_by_text("measured on all").first.wait_for(timeout=PATIENCE)
        settled(page)
    yield row("tick to estimate", estimates, 300)
    yield row("tick to metric on the live samples", measurements, 1500)
    page.close()


def thousand(chrome: Browser, runs: Path, turns: int) -> Iterator[Row]:
    """A model of a thousand ops."""
    folder = runs / "thousand"
    folder.mkdir()
    (folder / "big.py").write_text(THOUSAND)
    words = ("big.py:model", "--calibration", "big.py:data", "--evaluation", "big.py:data")
    with server(folder, *words) as address:
        page = chrome.new_page(viewport={"width": 1400, "height": 1000})
        go(page, f"{address}/ranges", PLOT)
        next_op(page)
        yield row("op switch, 1,001 ops", [timed(lambda: next_op(page)) for _ in range(turns)], 500)
        for name in ("Overview", "Plan", "Ranges"):
            tab(page, name)
        times = [timed(lambda n=n: tab(page, n)) for _ in range(3) for n in ("Overview", "Ranges")]
        yield row("page switch, 1,001 ops", times, 500)
        page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--only", help="parts, separated by commas")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(PARTS)
    rows: list[Row] = []
    with ExitStack() as stack:
        runs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        chrome = stack.enter_context(browser())
        if "start" in wanted:
            rows += start(chrome, runs, options.turns)
        if "thousand" in wanted:
            rows += thousand(chrome, runs, options.turns)
        if {"pages", "drag", "plan"} & set(wanted):
            address = stack.enter_context(server(runs))
            parts = {"pages": pages, "drag": drag, "plan": plan}
            for name in [n for n in parts if n in wanted]:
                rows += parts[name](chrome, address, options.turns)
    rows = [{**r, "load": os.getloadavg()[0]} for r in rows]
    report("app", rows, keep=options.only is None)


if __name__ == "__main__":
    main()
