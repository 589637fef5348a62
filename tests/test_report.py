"""The report as a page: self-contained, offline, and every number in it said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from browser_kit import PATIENCE, browser
from certificates import example
from plotly.offline import get_plotlyjs

from qviz.affine import Grid
from qviz.calibrators import Candidate, candidates
from qviz.coverage import CoverageRow
from qviz.histogram import collect
from qviz.histogram_cost import ClipRange
from qviz.intervals import Interval
from qviz.metrics import METRICS
from qviz.recipe import Recipe, TensorRange
from qviz.recipe_diff import differences
from qviz.report import html
from qviz.report_certificate import parity_sentence
from qviz.report_content import Content, Escalation, Measured, RangeView, Source
from qviz.report_words import changed, covered, decided, exclude, headline, ranged
from qviz.search.skip import SearchResult
from qviz.sensitivity import Sensitivity
from qviz.tables_tune import Tried

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PLAIN = Recipe(calibrator="mse", ranges=(TensorRange("x", -2.0, 2.0, "mse"),))
MEASURED = Measured(0.9, 0.92, -0.0217, Interval(-0.03, -0.01), 0.5, "kl", 12, 2000)
CERTIFICATE = example().to_json()
STEP = Tried(
    step=1, method="bias_correction", title="Bias correction", how="samples 512", metric="top1",
    before=0.88, after=0.9, gain=0.0227, low=0.01, high=0.035, drop=0.0217, drop_before=0.0435,
    divergence=(0.6, 0.5), changes=2, seconds=2.3, seed=7,
    samples={"calibration": 40, "training": 0, "evaluation": 2000}, notes=("2 means moved",),
    start=PLAIN, recipe=PLAIN.skip("fc"),
)  # fmt: skip


@pytest.fixture(scope="module")
def view() -> RangeView:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    histogram = collect(values)
    found = candidates(histogram, Grid(8))
    return RangeView("x", histogram, found, "mse", ("conv/input", "fc/input"))


@pytest.fixture
def content(view: RangeView, ranking: Sensitivity, found: SearchResult) -> Content:
    recipe = PLAIN.skip("fc")
    return Content(
        name="Net",
        metric=METRICS["top1"],
        recipe=recipe,
        base="all int8 with mse ranges",
        differences=differences(recipe, PLAIN),
        measured=MEASURED,
        calibrators={("max", True): MEASURED, ("mse", True): MEASURED},
        coverage=(
            CoverageRow("conv", "conv2d", "int8", "", 900, 90, (4, 6, 6), "net.py:3"),
            CoverageRow("fc", "linear", "float by choice", "", 100, 10, (3,), "net.py:4"),
        ),
        macs=1000,
        ranges=(view,),
        tensors=1,
        calibration_samples=40,
        sensitivity=ranking,
        search=found,
        tried=(STEP,),
        escalation=Escalation(
            "the target of 1.00 % is met",
            (("calibrators", "kept", "calibrator mse: the first one measured"),),
            ("2 variants were measured",),
            ("qviz tune net.pt2 --method bias_correction",),
        ),
        certificate=CERTIFICATE,
        sources=(Source("model", "net.pt2", "abc"), Source("evaluation data", "val", "def", 2000)),
        versions={"torch": "2.13.0"},
        created="2026-01-01 00:00 UTC",
        command="qviz run net.pt2 -o out",
        again="qviz export out -o int8",
        python="import qviz",
        warnings=("val: few samples",),
    )


class Page(HTMLParser):
    """What a page refers to, says and holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.figures: list[dict[str, object]] = []
        self._inside: list[tuple[str, str]] = []
        self.titles = re.findall(r"<h2>([^<]+?) ?<", text)
        self.feed(text.replace(get_plotlyjs(), ""))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self._inside.append((tag, dict(attrs).get("type") or ""))

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1][0] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        tag, kind = self._inside[-1] if self._inside else ("", "")
        if tag == "script" and kind == "application/json":
            self.figures.append(json.loads(data))
        if tag not in ("script", "style"):
            self.said.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(part for part in self.said if part).replace("\u00a0", " ")


def test_nothing_in_the_page_refers_to_another_place(content: Content) -> None:
    page = html(content)
    links = [v for name, v in Page(page).attributes if name in ("src", "href", "action", "data")]
    assert links
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    own = page.replace(get_plotlyjs(), "")
    assert re.findall(r"https?://\S+|url\(\s*['\"]?(?!data:)\S+", own) == []


def test_the_browser_is_forbidden_every_connection(content: Content) -> None:
    assert "default-src &#x27;none&#x27;" in html(content)


def test_plotly_is_inlined_once_whatever_the_number_of_figures(content: Content) -> None:
    page = html(content)
    assert page.count(get_plotlyjs()[:500]) == 1
    assert sum("data" in figure for figure in Page(page).figures) == 4
    assert len(page) < 6_000_000


def test_the_upload_button_of_the_charts_is_off(content: Content) -> None:
    (config,) = (one for one in Page(html(content)).figures if "data" not in one)
    assert config == {"showSendToCloud": False, "displaylogo": False, "responsive": True}


def test_names_are_shown_and_never_run(content: Content, view: RangeView) -> None:
    evil = "</script><script>alert(1)</script>"
    page = html(replace(content, name=evil, ranges=(replace(view, tensor=evil, readers=(evil,)),)))
    assert "alert(1)</script>" not in page
    assert f"{evil} in int8" in Page(page).text


def test_every_section_is_there_in_order(content: Content) -> None:
    assert Page(html(content)).titles == [
        "Recipe",
        "Calibrators",
        "Coverage",
        "Ranges",
        "Sensitivity",
        "Partial quantization",
        "Winning accuracy back",
        "Parity certificate",
        "Provenance",
    ]


def test_what_was_not_measured_is_left_out_or_said(content: Content) -> None:
    less = replace(
        content, measured=None, calibrators={}, sensitivity=None, search=None, certificate=None,
        tried=(), escalation=None,
    )  # fmt: skip
    page = Page(html(less))
    assert page.titles == ["Recipe", "Coverage", "Ranges", "Parity certificate", "Provenance"]
    assert "Not measured: there are no evaluation data." in page.text
    assert "Not exported, so nothing is verified." in page.text


def test_estimated_and_measured_sections_say_so(content: Content) -> None:
    tags = re.findall(r'<h2>([\w ]+?) <span class="tag (\w+)">', html(content))
    assert tags == [
        ("Calibrators", "measured"),
        ("Ranges", "estimated"),
        ("Sensitivity", "measured"),
        ("Partial quantization", "measured"),
        ("Winning accuracy back", "measured"),
        ("Parity certificate", "measured"),
    ]


def test_the_page_says_what_was_decided_and_with_what(content: Content) -> None:
    said = Page(html(content)).text
    for part in (
        "1 difference from all int8 with mse ranges.",
        "fc left in float",
        "net.pt2",
        "qviz run net.pt2 -o out",
        "qviz export out -o int8",
        "val: few samples",
        "Versions: torch 2.13.0. Report made 2026-01-01 00:00 UTC.",
    ):
        assert part in said


def test_a_step_of_tuning_is_told_with_its_numbers_and_samples(content: Content) -> None:
    said = Page(html(content)).text
    for part in (
        "1 step was tried in this run; this recipe came out of Bias correction (marked).",
        "1 Bias correction better 88.0 % 90.0 % +2.27 % +1.00 % to +3.50 % 0.600 0.500 samples 512 "
        "40 - 2,000 7 2.3 s",
        "Bias correction: 2 means moved",
        "Found by qviz auto: the target of 1.00 % is met.",
        "2 variants were measured",
        "calibrators kept calibrator mse: the first one measured",
        "qviz tune net.pt2 --method bias_correction",
    ):
        assert part in said


def test_a_step_that_was_not_measured_has_no_numbers(content: Content) -> None:
    bare = Tried(1, "adaround", "AdaRound", recipe=content.recipe)
    said = Page(html(replace(content, tried=(bare,)))).text
    assert "1 AdaRound not measured - - - - - - - - - 0 0.0 s" in said


def test_the_headline_has_the_interval_and_the_number_of_samples() -> None:
    assert headline(MEASURED, METRICS["top1"]) == (
        "Top-1 accuracy 90.0 % in int8, 92.0 % in float: change -2.17 % (95 % interval -3.00 % to "
        "-1.00 %), measured on 2,000 samples."
    )


def test_a_change_from_a_float_score_of_zero_is_not_a_number_on_the_page() -> None:
    nothing = replace(MEASURED, change=float("nan"))
    assert changed(nothing) == "not defined relative to float"


def test_coverage_is_a_sentence(content: Content) -> None:
    assert covered(content.coverage, content.macs) == (
        "1 of 2 ops run in int8 (90.0 % of 1.00 k multiply-accumulates per sample), 1 in float by "
        "choice, 0 in float for a reason that the table names."
    )


def test_a_recipe_is_a_sentence() -> None:
    text = (
        "mse ranges, 8 bit weights (one scale per output channel), 8 bit activations, profile "
        "cuda; everything int8 that can be"
    )
    assert decided(PLAIN) == f"{text}."
    assert decided(PLAIN.skip("fc")) == f"{text}, with 1 exception."
    assert decided(PLAIN.only("a", "b")).endswith("; everything in float, with 2 exceptions.")


def test_a_range_is_said_with_what_it_costs() -> None:
    drawn = Candidate("fixed", ClipRange(-2.0, 2.0), 2 / 127, 0.25, 0.1, 20.5, 0.09, 0.01)
    histogram = collect(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert ranged(RangeView("x", histogram, (drawn,), "fixed", ())) == (
        "drawn by hand: ±2.00, step 0.0157, 25.0 % of values clipped, SQNR 20.5 dB; 4 values seen, "
        "0 to 3.00."
    )


def test_the_exclude_list_can_be_pasted(ranking: Sensitivity) -> None:
    assert exclude(ranking) == "--skip 'conv' --skip 'fc'\nrecipe.skip('conv', 'fc')"


def test_parity_is_a_sentence() -> None:
    assert parity_sentence(CERTIFICATE) == (
        "Int8 on the CPU computes what was simulated: 1 call compared on 2,000 samples, "
        "4.00 M outputs, 4 of them one step off (1 in 1.00 M) and 0 more than one step."
    )


def test_the_certificate_is_a_table_of_backends_with_what_it_is_about(content: Content) -> None:
    said = Page(html(content)).text
    for part in (
        "int8 on the CPU",
        "not run",
        "int8 on CUDA: PyTorch finds no GPU that it can use.",
        "float model: measured at export.",
        "Tolerance: no output more than one step off, at most 0.100 % of all outputs one step off",
        "avx512_vnni",
        "H100 (compute capability 9.0, driver 570.1, CUDA 12.8)",
        "89ab",
    ):
        assert part in said


def test_a_certificate_of_other_files_is_said_and_not_shown(content: Content) -> None:
    page = Page(html(replace(content, certificate=None, stale="certificate.json: of other files.")))
    assert "certificate.json: of other files." in page.text
    assert "Tolerance" not in page.text


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_it_offline_without_one_request(
    content: Content, tmp_path: Path, chrome: Browser, scheme: Literal["light", "dark"]
) -> None:
    path = tmp_path / "report.html"
    path.write_text(html(content), encoding="utf-8")
    asked: list[str] = []
    wrong: list[str] = []
    with chrome.new_context(
        viewport={"width": 420, "height": 900}, color_scheme=scheme, offline=True
    ) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path.as_uri(), timeout=PATIENCE)
        page.wait_for_function(
            "[...document.querySelectorAll('.figure')].every(n => n.querySelector('.main-svg'))"
        )
        page.get_by_role("button", name="entropy").click()
        shown = page.evaluate("document.querySelector('.ranges .figure').data.map(t => t.visible)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert asked == [path.as_uri()]
    assert wrong == []
    assert shown.count(False) == 1
