"""Take the screenshots that the README shows: every page, light and dark, of a sample at work.

    python docs/screenshots.py

Needs Chromium and ``pip install playwright pillow``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

# the server and the browser are the tests' own
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from browser_kit import PATIENCE, browser, go, server, settled, tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIZE = {"width": 1280, "height": 900}
FOLDER = Path(__file__).resolve().parent / "screenshots"
PLOT = ".js-plotly-plot .main-svg"
PAGES = {
    "start": "button:has-text('Open')",
    "overview": "[data-testid=stDataFrame]",
    "ranges": PLOT,
    "sensitivity": PLOT,
    "plan": PLOT,
    "tune": ".st-key-tune_last",
    "export": "text=What was written",
}


def press(page: Page, key: str) -> None:
    """Press the button of that key and wait for what it does."""
    page.locator(f".st-key-{key} button:not([disabled])").first.click()
    settled(page)


def prepare(page: Page, address: str) -> str:
    """Do some work on the sample; gives the part of the address that finds it again."""
    go(page, f"{address}/sensitivity?sample=efficientnet", ".st-key-sensitivity_run button")
    press(page, "sensitivity_run")
    page.get_by_text(re.compile("Measured [0-9]+ of")).first.wait_for()
    page.get_by_role("button", name="Cancel").first.wait_for(state="detached", timeout=PATIENCE)
    settled(page)
    tab(page, "Plan")
    press(page, "plan_search")
    page.locator("[class*=st-key-plan_use]").first.wait_for(timeout=PATIENCE)
    tab(page, "Win back")
    press(page, "tune_run_statistics")
    page.locator(".st-key-tune_last").wait_for(timeout=PATIENCE)
    tab(page, "Export")
    press(page, "export_start")
    page.get_by_text("What was written").wait_for(timeout=PATIENCE)
    tab(page, "Ranges")
    return page.url.partition("?")[2]


def shoot(page: Page, path: Path) -> None:
    """A screenshot, in few enough colours to be small."""
    page.wait_for_timeout(2500)  # what fades in has faded in
    if path.stem.startswith("export"):
        proof = page.get_by_text("What was written").first
        proof.evaluate("node => node.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(192).save(path, optimize=True)


def main() -> None:
    """Take them all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as runs, browser() as chrome, server(Path(runs)) as address:
        page = chrome.new_page()
        page.set_default_timeout(PATIENCE)
        query = prepare(page, address)
        page.close()
        for scheme in ("light", "dark"):
            page = chrome.new_page(viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type]
            page.set_default_timeout(PATIENCE)
            for name, wanted in PAGES.items():
                where = "" if name == "start" else name
                go(page, f"{address}/{where}{'' if name == 'start' else '?' + query}", wanted)
                shoot(page, FOLDER / f"{name}-{scheme}.png")
            page.close()


if __name__ == "__main__":
    main()
