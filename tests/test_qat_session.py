"""Training as a verb: of a session, and ``qviz qat`` on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_kit import Project, make_project, result, write_data
from torch import Tensor, nn

import qviz
from qviz.cli import main
from qviz.errors import Cancelled
from qviz.progress import Progress
from qviz.recipe import Recipe
from qviz.session import Session
from qviz.tune.qat import QATOptions

OPTIONS = QATOptions(schedule_epochs=30, batch_size=16, ranges="lsq", initial_lr=3.0, distill=1.0)


class Net(nn.Module):
    """A hidden layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.fc = nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.relu(self.hidden(x)))
        return out


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    with torch.no_grad():
        return x, Net()(x).argmax(1)


def opened(run: Path | None = None) -> Session:
    training = samples(100, 3)
    return qviz.open(Net().eval(), samples(40, 1), samples(100, 2), training=training, run_dir=run)


def start(session: Session) -> Recipe:
    return session.recipe("max", weight_bits=3, activation_bits=3)


def test_a_session_trains_measures_and_keeps_the_weights(tmp_path: Path) -> None:
    session = opened(tmp_path)
    recipe = start(session)
    made = session.qat(recipe, OPTIONS, name="trained")
    assert made.before is not None
    assert made.after is not None
    assert made.after.divergence < made.before.divergence
    assert made.recipe.weights
    assert session.variants == {"trained": made.recipe}
    assert (made.training, made.record["train_samples"], made.record["held_out_samples"]) == (
        100, 90, 10,
    )  # fmt: skip
    assert session.tunings()[-1]["options"]["ranges"] == "lsq"
    assert recipe == start(session)
    again = opened(tmp_path)
    assert again.evaluate(made.recipe).value == made.after.value


def test_a_session_that_was_stopped_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.verb == "qat" and progress.done == 7:
            raise Cancelled

    session = opened(tmp_path)
    with pytest.raises(Cancelled):
        session.qat(start(session), OPTIONS, progress=stop)
    session = opened(tmp_path)
    known: list[int] = []
    made = session.qat(
        start(session),
        OPTIONS,
        progress=lambda p: known.append(p.known) if p.verb == "qat" else None,
    )
    assert set(known) == {7}
    whole = opened()
    assert made.recipe == whole.qat(start(whole), OPTIONS).recipe


def test_int8_computes_what_was_trained(tmp_path: Path) -> None:
    session = opened()
    made = session.qat(start(session), OPTIONS)
    certificate = session.export(made.recipe, tmp_path / "int8")["checkpoint"]["certificate"]
    assert certificate["passed"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = make_project(tmp_path_factory.mktemp("project"))
    with np.load(made.evaluation) as file:
        write_data(made.path / "train.npz", file["x"][::-1].copy(), file["labels"][::-1].copy())
    (made.path / "own.py").write_text(
        "import torch, numpy as np\n"
        "def loader():\n"
        "    f = np.load(__file__.replace('own.py', 'train.npz'))\n"
        "    x, y = torch.from_numpy(f['x']), torch.from_numpy(f['labels'])\n"
        "    return list(zip(x.split(30), y.split(30)))\n"
        "def loss(outputs, targets):\n"
        "    return torch.nn.functional.cross_entropy(outputs, targets)\n"
        "def adam(model):\n"
        "    return torch.optim.Adam(model.parameters(), 1e-3)\n"
        "three = 3\n"
    )
    return made


BITS = ("--calibrator", "max", "--weight-bits", "4", "--activation-bits", "4")
FEW = ("--schedule-epochs", "20", "--train-batch", "20", "--initial-lr", "1")


def words(project: Project, out: Path, *more: str) -> list[str]:
    return project.words("qat", out, *BITS, *FEW, *more)


def test_the_command_trains_and_hands_on(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("--train", str(project.path / "train.npz"))
    asked = words(project, tmp_path / "out", *train, "--ranges", "pact", "--distill", "0.5")
    found = result(capsys, asked)
    assert [e["number"] for e in found["epochs"]] == [0, 1, 2]
    assert found["samples"] == {"calibration": 40, "training": 120, "evaluation": 120}
    assert Recipe.from_json(Path(found["recipe"]).read_text()).weights == found["weights"] != ""
    assert (found["options"]["ranges"], found["options"]["distill"]) == ("pact", 0.5)

    assert main([*asked, "--quiet"]) == 0  # the finished training is found again
    said = capsys.readouterr().out
    assert said.startswith("epoch  steps  samples  learning rate ")
    assert "* kept" in said
    assert "note: Batch norm is folded into the weights" in said
    assert "Learned ranges add nothing at 8 bits" in said
    assert "kept as variant qat-2: " in said
    rows = [json.loads(r) for r in (tmp_path / "out" / "tuning.jsonl").read_text().splitlines()]
    assert rows[0]["record"] == rows[1]["record"]


def test_loader_loss_and_optimizer_of_the_users_own(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = str(project.path / "own.py")
    given = ("--loader", f"{own}:loader", "--loss", f"{own}:loss", "--optimizer", f"{own}:adam")
    found = result(capsys, words(project, tmp_path / "out", *given))
    assert found["record"]["steps"] == 8  # two epochs of four batches
    assert any("no samples are held out" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "training data: are missing. Give some with --train, or a --loader of your own."),
        (
            ("--train", "train.npz", "--loss", "own.py:three"),
            "own.py:three: is a int, no function. Name a function.",
        ),
        (
            ("--loader", "own.py:three"),
            "own.py:three: ",
        ),
        (
            ("--train", "calibration.npz"),
            "has no labels to train on. Give (inputs, label) samples, distil from the float model "
            "alone (distill=1), or give a loss of your own.",
        ),
        (
            ("--train", "train.npz", "--distill", "2"),
            "distill 2.0: is not from 0 to 1. Give another number.",
        ),
    ],
    ids=["no training data", "no function", "no loader", "no labels", "no share"],
)
def test_what_cannot_be_trained_is_one_line(
    more: tuple[str, ...],
    said: str,
    project: Project,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project.path)
    assert main([*words(project, tmp_path / "out", *more), "--quiet"]) == 2
    assert said in capsys.readouterr().err


def test_options_that_do_not_decide_the_result_do_not_begin_anew() -> None:
    assert replace(OPTIONS, max_seconds=5.0, checkpoint_every=1.0).deciding == OPTIONS.deciding
    assert replace(OPTIONS, seed=1).deciding != OPTIONS.deciding
