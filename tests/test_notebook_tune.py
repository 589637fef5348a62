"""What a cell shows of winning accuracy back, and what of it while it runs."""

from __future__ import annotations

import pytest
import torch
from notebook_kit import Shell, figures, install

from qviz import notebook
from qviz.auto import AutoEvent, AutoResult, AutoStep
from qviz.notebook_live import partial_html
from qviz.opening import open as open_session
from qviz.recipe import Recipe
from qviz.session import Session
from qviz.tune.qat_options import Epoch

STEP = AutoStep("cheap fixes", "bias_correction", "Bias correction", "kept", "it helps",
                "Bias correction: kept: it helps; 1.0 s", 1.0)  # fmt: skip


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    return install(monkeypatch)


@pytest.fixture(scope="module")
def session() -> Session:
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(40, 4, generator=generator), torch.arange(40) % 2)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return open_session(model, data, data)


@pytest.fixture(scope="module")
def recipe(session: Session) -> Recipe:
    return session.recipe("max", weight_bits=3)


def view_of(value: object) -> notebook.View:
    shown = notebook.view(value)
    assert shown is not None
    return shown


def test_a_tuning_shows_before_and_after_with_interval_noise_and_samples(
    shell: Shell, session: Session, recipe: Recipe
) -> None:
    made = notebook.start(session).tune("bias_correction", recipe).result()
    text = view_of(made).text
    assert text.startswith("Bias correction: 2 changes in ")
    assert " → " in text
    assert (": noise" in text) == made.noise
    html = shell.shown[-1]["text/html"]
    assert "measured on 40 evaluation samples" in html
    assert "Seed 0; fitted on at most 40 calibration samples" in html
    assert figures(shell.shown)


def test_a_tuned_recipe_says_so(session: Session, recipe: Recipe) -> None:
    made = session.tune("bias_correction", recipe)
    assert view_of(made.recipe).text.endswith(f"; tuned weights {made.recipe.weights}")


def test_remedies_show_what_helps_which_op(shell: Shell, session: Session, recipe: Recipe) -> None:
    found = notebook.start(session).remedies(recipe, sites=["0"]).result()
    assert shell.shown[-1]["text/plain"] == f"Remedies: {found.summary}"
    assert "left in float" in shell.shown[-1]["text/html"]


def test_an_escalation_shows_its_steps_and_the_commands_that_repeat_it() -> None:
    found = AutoResult(
        "guided", 0.01, True, STEP, (STEP,), "the target of 1 % is met", "top1", 0.9, 3, 12.0, 0.0,
        None, 0, (), ("qviz tune run --method bias_correction",), ("3 variants were measured",),
    )  # fmt: skip
    shown = view_of(found)
    assert shown.text == "The target of 1 % is met: 3 variants measured in 12 s"
    assert "`qviz tune run --method bias_correction`" in shown.notes
    assert shown.tables[0].frame["what it did"].tolist() == [STEP.sentence]


@pytest.mark.parametrize(
    ("partial", "said"),
    [
        ((Epoch(0, 0, 0, 0.1, None, 0.5, 0.0, best=True),), "held-out loss"),
        (AutoEvent("end", "cheap fixes", "", (STEP,), STEP, 1.0, None), STEP.sentence),
    ],
    ids=["epochs of a training", "steps of an escalation"],
)
def test_what_a_running_job_has_found_is_a_table(partial: object, said: str) -> None:
    assert said in partial_html(partial)
