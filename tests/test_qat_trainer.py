"""The built-in trainer: schedule, data, best epoch, checkpoints, and what it refuses."""

from __future__ import annotations

import functools
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import data, inputs, network
from qat_kit import FEW, four_bits, labelled, simulated, subject
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from qviz.data import as_data
from qviz.errors import Cancelled, DeviceError, TuneError
from qviz.progress import Progress
from qviz.tune import qat, qat_trainer
from qviz.tune.code_digest import code_digest
from qviz.tune.qat import Checkpoints, Epoch, QATModel, QATOptions, QATResult, train
from qviz.tune.qat_data import split, walked
from qviz.tune.qat_loss import distance
from qviz.tune.qat_options import OptimizerName, Ranges
from qviz.tune.qat_state import Arrays, from_arrays, to_arrays
from qviz.tune.step import Step


def same(a: QATResult, b: QATResult) -> bool:
    assert a.step.weights is not None
    assert b.step.weights is not None
    mine, theirs = a.step.weights.to_arrays(), b.step.weights.to_arrays()
    equal = mine.keys() == theirs.keys() and all(
        np.array_equal(v, theirs[k]) for k, v in mine.items()
    )
    rows = [[replace(e, seconds=0.0) for e in r.epochs] for r in (a, b)]
    return equal and rows[0] == rows[1] and a.step.recipe == b.step.recipe


class Kept:
    """Checkpoints in memory, and a progress callback that stops after so many steps."""

    def __init__(self, stop: int | None = None) -> None:
        self.arrays: Arrays | None = None
        self.stop, self.saved = stop, 0

    def save(self, arrays: Arrays) -> None:
        self.arrays, self.saved = dict(arrays), self.saved + 1

    def at(self) -> Checkpoints:
        return Checkpoints(self.save, lambda: self.arrays)

    def __call__(self, progress: Progress) -> None:
        if progress.done == self.stop:
            raise Cancelled


def test_training_lowers_the_held_out_loss_and_keeps_the_best_epoch() -> None:
    seen: list[Epoch] = []
    result = train(subject(labelled()), FEW, on_epoch=seen.append)
    held_out = [e.held_out_loss for e in result.epochs]
    assert list(result.epochs) == seen
    assert [e.number for e in seen] == [0, 1, 2]
    assert held_out[result.best] == min(h for h in held_out if h is not None) < held_out[0]  # type: ignore[operator]
    assert result.helped
    assert result.step.weights is not None
    (x,) = inputs("residual", 8, 5)
    before = simulated(subject().graph, Step(four_bits(), None, ()), x)[0]
    after = simulated(subject().graph, result.step, x)[0]
    wanted = network("residual")[0](x)
    assert distance(after, wanted) < distance(before, wanted)


def test_the_schedule_is_a_tenth_from_one_per_cent_down_a_cosine() -> None:
    options = QATOptions(schedule_epochs=90, initial_lr=0.1)
    assert options.epochs == 9
    assert options.steps(50) == 450
    rates = [options.lr_at(i, 450) for i in range(450)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates == sorted(rates, reverse=True)
    assert options.lr_at(1, 3) == pytest.approx(1e-3 * (0.01 + 0.99 / 2))


def test_a_part_of_an_epoch_is_trained_too() -> None:
    result = train(subject(labelled()), replace(FEW, schedule_epochs=4))
    assert (result.steps, [e.number for e in result.epochs]) == (2, [0, 1])  # 0.4 of 5 batches


def test_the_record_counts_samples_and_macs() -> None:
    result = train(subject(labelled()), replace(FEW, distill=0.5))
    assert (result.train_samples, result.held_out_samples, result.steps) == (36, 4, 10)
    assert result.samples == 72
    forwards = 3 * 72 + 3 * 4  # trained on; held out before and after each epoch
    teacher = 72 + 3 * 4
    assert result.macs == (forwards + teacher) * subject().graph.macs
    record = result.step.record
    assert (record["samples"], record["macs"], record["first_lr"]) == (72, result.macs, 0.001)


def test_training_that_does_not_help_changes_nothing() -> None:
    options = replace(FEW, initial_lr=300.0, ranges="fixed", momentum=0.0)
    result = train(subject(labelled()), options)
    assert not result.helped
    assert result.step.weights is None
    assert result.step.recipe == four_bits()
    assert "so nothing is changed" in result.step.notes[0]


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    runs = [train(subject(labelled()), replace(FEW, seed=seed)) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize(
    ("optimizer", "ranges", "stop"),
    [("sgd", "fixed", 3), ("sgd", "lsq", 5), ("adamw", "lsq", 7), ("adam", "pact", 9)],
    ids=["in epoch 1", "at its end", "in epoch 2", "before the end"],
)
def test_a_cancelled_run_goes_on_to_the_same_bits(
    optimizer: OptimizerName, ranges: Ranges, stop: int
) -> None:
    options = replace(FEW, ranges=ranges, optimizer=optimizer, distill=0.3)
    kept = Kept(stop)
    with pytest.raises(Cancelled):
        train(subject(labelled()), options, checkpoints=kept.at(), progress=kept)
    rest: list[Progress] = []
    result = train(subject(labelled()), options, checkpoints=kept.at(), progress=rest.append)
    assert rest[0].known == stop
    assert same(result, train(subject(labelled()), options))


def test_a_finished_run_is_not_repeated() -> None:
    kept, steps = Kept(), list[Progress]()
    first = train(subject(labelled()), FEW, checkpoints=kept.at())
    rows: list[Epoch] = []
    again = train(
        subject(labelled()), FEW, checkpoints=kept.at(), on_epoch=rows.append, progress=steps.append
    )
    assert steps == []
    assert rows == list(again.epochs)
    assert same(first, again)


def test_a_checkpoint_of_other_options_is_left_alone() -> None:
    kept = Kept(3)
    with pytest.raises(Cancelled):
        train(subject(labelled()), FEW, checkpoints=kept.at(), progress=kept)
    other = replace(FEW, weight_decay=0.01)
    assert same(
        train(subject(labelled()), other, checkpoints=kept.at()), train(subject(labelled()), other)
    )


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import numpy as np
from pathlib import Path
from qat_kit import FEW, labelled, subject
from qviz.recipe import Recipe
from qviz.store_files import replace_file
from qviz.tune.qat import Checkpoints, train
from dataclasses import replace
import io
path = Path(sys.argv[2])
chosen = Recipe.from_json(sys.argv[3])  # observing anew would take longer than training
def save(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    replace_file(path, buffer.getvalue())
def progress(p):
    if p.done == 8:
        os.kill(os.getpid(), signal.SIGKILL)
options = replace(FEW, checkpoint_every=0)
kept = Checkpoints(save, lambda: None)
train(subject(labelled(), chosen), options, checkpoints=kept, progress=progress)
"""


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    here = str(Path(__file__).parent)
    words = [sys.executable, "-c", KILLED, here, str(path), four_bits().to_json()]
    done = subprocess.run(words, check=False)
    assert done.returncode == -9
    with np.load(path, allow_pickle=False) as file:
        kept = Kept()
        kept.arrays = {k: file[k] for k in file.files}
    options, rest = replace(FEW, checkpoint_every=0), list[Progress]()
    result = train(subject(labelled()), options, checkpoints=kept.at(), progress=rest.append)
    assert rest[0].known == 7  # killed in step 8, a checkpoint after every step
    assert same(result, train(subject(labelled()), options))


class Noisy(TensorDataset):
    """Samples with noise from all three global generators."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = self.tensors[0][index], self.tensors[1][index]
        noise = torch.randn(x.shape) + np.random.randn() + random.random()
        return x + 0.01 * noise, y


def loader() -> DataLoader[Any]:
    batch = next(labelled().batches(40))
    assert batch.targets is not None
    return DataLoader(Noisy(batch.args[0], batch.targets), batch_size=8, shuffle=True)


def noisy_loss(outputs: Tensor, targets: Tensor | None) -> Tensor:
    assert targets is not None
    return F.cross_entropy(outputs + 0.1 * torch.randn(outputs.shape), targets)


def test_a_loader_and_loss_with_random_numbers_of_their_own_go_on_to_the_same_bits() -> None:
    kept, before = Kept(7), (torch.get_rng_state(), random.getstate())
    given: dict[str, Any] = {"loader": loader(), "loss": noisy_loss}
    with pytest.raises(Cancelled):
        train(subject(), FEW, checkpoints=kept.at(), progress=kept, **given)
    result = train(subject(), FEW, checkpoints=kept.at(), **given)
    assert same(result, train(subject(), FEW, **given))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert result.best == 2  # nothing is held out: the last epoch
    assert result.warnings == (
        "training loader: no samples are held out, so the last epoch is kept",
    )


def batches(seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    (whole,) = labelled(16, seed).batches(16)
    assert whole.targets is not None
    return list(zip(whole.args[0].split(8), whole.targets.split(8), strict=True))


def smoothed(amount: float) -> Callable[[Tensor, Tensor | None], Tensor]:
    def loss(outputs: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return F.cross_entropy(outputs, targets, label_smoothing=amount)

    return loss


def adam(rate: float) -> Callable[[QATModel], torch.optim.Optimizer]:
    return lambda model, rate=rate: torch.optim.Adam(model.weights.parameters(), rate)  # type: ignore[misc]


SHORT = replace(FEW, schedule_epochs=4)
GIVEN: dict[str, Any] = {
    "loader": batches,
    "loss": lambda: smoothed(0.1),
    "optimizer": lambda: adam(0.1),
    "held_out": lambda: labelled(8, 2),
}


@pytest.mark.parametrize(
    "other",
    [
        {"loader": lambda: batches(2)},
        {"loss": lambda: smoothed(0.2)},
        {"optimizer": lambda: adam(0.2)},
        {"held_out": lambda: labelled(8, 3)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_training_with_another_loader_loss_optimizer_or_held_out_data_begins_anew(
    other: dict[str, Any],
) -> None:
    kept, steps = Kept(), list[Progress]()
    train(subject(), SHORT, checkpoints=kept.at(), **{k: f() for k, f in GIVEN.items()})
    changed = {k: f() for k, f in {**GIVEN, **other}.items()}
    train(subject(), SHORT, checkpoints=kept.at(), progress=steps.append, **changed)
    assert steps[0].known == 0


def test_training_with_the_same_loader_loss_optimizer_and_held_out_data_is_not_repeated() -> None:
    kept, steps = Kept(), list[Progress]()
    for _ in range(2):  # other objects of the same content
        steps.clear()
        given = {k: f() for k, f in GIVEN.items()}
        train(subject(), SHORT, checkpoints=kept.at(), progress=steps.append, **given)
    assert steps == []


def test_a_look_at_the_first_batch_leaves_the_random_numbers_of_a_loader_alone() -> None:
    def own() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(5)
        return DataLoader(loader().dataset, batch_size=8, shuffle=True, generator=generator)

    watched = train(subject(), FEW, loader=own(), checkpoints=Kept().at())
    assert same(watched, train(subject(), FEW, loader=own()))


def test_a_loader_that_can_be_walked_only_once_loses_no_batch() -> None:
    class Once:
        def __init__(self) -> None:
            self.left = batches()

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Once:
            return self

        def __next__(self) -> object:
            if not self.left:
                raise StopIteration
            return self.left.pop(0)

    result = train(
        subject(), replace(FEW, schedule_epochs=10), loader=Once(), checkpoints=Kept().at()
    )
    assert result.steps == 2


@dataclass(slots=True)
class Slotted:
    """A value in a slot."""

    weight: int


class Weighted(torch.nn.Module):
    """A loss with a value of its own."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = torch.tensor(weight)

    def forward(self, outputs: Tensor, targets: Tensor | None) -> Tensor:
        return self.weight * outputs.square().mean()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x.sum(), lambda x: x.mean()),
        (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
        (lambda x, y=1: x + y, lambda x, y=2: x + y),
        (smoothed(0.1), smoothed(0.2)),
        (functools.partial(F.cross_entropy, reduction="sum"), F.cross_entropy),
        (torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(label_smoothing=0.1)),
        (Weighted(1.0), Weighted(2.0)),
        (Weighted(1.0).forward, Weighted(2.0).forward),
        (F.cross_entropy, F.nll_loss),
        (Slotted(1), Slotted(2)),
        (functools.partial(max, np.float32(1)), functools.partial(max, np.float32(2))),
    ],
    ids=[
        "constant", "name", "inner code", "default", "closure", "partial", "attribute", "tensor",
        "method", "function", "slot", "number of numpy",
    ],
)  # fmt: skip
def test_code_of_the_callers_is_told_apart_by_what_it_does(one: object, other: object) -> None:
    assert code_digest(one) == code_digest(one)
    assert code_digest(one) != code_digest(other)


OWN_CODE = """
import logging, threading
import helper
SCALE, KINDS, LOCK, LOG = {scale}, {{"a", "b", ("c", 1)}}, threading.Lock(), logging.getLogger()
class Part:
    def of(self, x):
        return x * {part}
def inner(x):
    LOG.debug("x")
    return Part().of(x) if x in ("p", "q") or x in {{"r", "s", "t"}} or KINDS else loss
def loss(outputs, targets):
    with LOCK:
        return SCALE * inner(outputs) + helper.more(targets)
"""
DIGEST = """
import sys
from qviz.errors import TuneError
from qviz.loading_factory import named
from qviz.tune.code_digest import code_digest
print(*(code_digest(named(f"{path}/own.py:loss", TuneError)) for path in sys.argv[1:]))
"""


def own_code(folder: Path, scale: int = 1, part: int = 2) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(OWN_CODE.format(scale=scale, part=part))
    (folder.parent / "helper.py").write_text("def more(x):\n    return x + 1\n")
    return str(folder)


def test_code_of_the_callers_is_the_same_in_every_process_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one, moved = own_code(tmp_path / "one"), own_code(tmp_path / "moved")
    value, class_ = own_code(tmp_path / "value", scale=3), own_code(tmp_path / "class", part=3)

    def digests(*folders: str, seed: str) -> list[str]:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        words = [sys.executable, "-c", DIGEST, *folders]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()

    first = digests(one, moved, value, class_, seed="1")
    assert first == digests(one, moved, value, class_, seed="2")
    assert first[0] == first[1]
    assert len(set(first)) == 3
    (tmp_path / "helper.py").write_text("def more(x):\n    return x + 22\n")
    assert digests(one, seed="1") != first[:1]


def test_a_loader_with_samples_held_out_keeps_the_best_epoch() -> None:
    result = train(subject(), FEW, loader=loader(), held_out=labelled(16, 2))
    assert (result.held_out_samples, result.warnings) == (16, ())
    assert result.epochs[result.best].held_out_loss == min(
        e.held_out_loss or math.inf for e in result.epochs
    )


def test_an_optimizer_and_a_loss_of_the_callers_are_used() -> None:
    rates: list[float] = []

    def optimizer(model: QATModel) -> torch.optim.Optimizer:
        made = torch.optim.SGD(model.weights.parameters(), lr=0.5)
        made.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return made

    def loss(outputs: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return (outputs * 1e-6).square().sum()

    train(subject(labelled()), FEW, optimizer=optimizer, loss=loss)
    assert rates[0] == 0.5  # the schedule scales the optimizer's own rate
    assert rates[-1] == pytest.approx(0.005)


def test_distillation_alone_needs_no_labels() -> None:
    result = train(subject(data("residual", 40, 1)), replace(FEW, distill=1.0))
    assert result.helped


def test_the_split_leaves_every_sample_on_one_side() -> None:
    source = split(labelled(), held_out=0.25, batch_size=7, seed=0)
    rows = [x for b in [*source.held_out, *source.epoch(1)] for x in b.args[0].flatten(1).tolist()]
    (x,) = inputs("residual", 40, 1)
    assert sorted(rows) == sorted(x.flatten(1).tolist())
    assert (source.samples, source.held_out_samples, source.steps) == (30, 10, 5)


def orders(epoch: Callable[[int], Iterator[Any]], number: int) -> list[float]:
    return [float(v) for b in epoch(number) for v in b.args[0].flatten(1)[:, 0]]


@pytest.mark.parametrize("keep", [1 << 30, 5 * 772], ids=["in memory", "read as it goes"])
def test_epochs_differ_in_order_and_repeat_it(keep: int) -> None:
    source = split(labelled(), held_out=0.1, batch_size=8, seed=0, keep=keep)
    first, second = orders(source.epoch, 1), orders(source.epoch, 2)
    assert first != second
    assert sorted(first) == sorted(second)
    assert first == orders(source.epoch, 1)
    assert source.samples == len(first)


def test_training_data_too_large_for_memory_are_told() -> None:
    source = split(labelled(), held_out=0.0, batch_size=8, seed=0, keep=5 * 800)
    assert source.warnings == (
        "training data: too large to keep in memory, so it is shuffled within 5 samples at a time. "
        "Give it in mixed order, or train with a loader of your own",
    )


def test_a_run_out_of_time_ends_with_the_best_so_far_and_goes_on_with_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, clock = Kept(), count()
    with monkeypatch.context() as patched:  # every look at the clock takes a second
        patched.setattr(qat_trainer, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        options = replace(FEW, max_seconds=25.0, checkpoint_every=1e9)
        short = train(subject(labelled()), options, checkpoints=kept.at())
    assert 5 < short.steps < 10
    assert [e.number for e in short.epochs] == [0, 1, 2]
    assert short.epochs[-1].held_out_loss is not None
    rest: list[Progress] = []
    longer = train(subject(labelled()), FEW, checkpoints=kept.at(), progress=rest.append)
    assert rest[0].known == short.steps
    assert same(longer, train(subject(labelled()), FEW))


def test_a_state_survives_as_arrays() -> None:
    state: dict[Any, Any] = {
        "a": (1, 2.5, None),
        "b": [{"c": torch.arange(3)}],
        7: {0: True},
    }
    found = from_arrays(to_arrays(state))
    assert torch.equal(found["b"][0].pop("c"), torch.arange(3))
    assert found == {"a": (1, 2.5, None), "b": [{}], 7: {0: True}}


def message(act: Callable[[], object]) -> str:
    with pytest.raises(TuneError) as caught:
        act()
    return str(caught.value)


def test_a_loss_that_becomes_nan_is_named_and_the_recipe_before_is_untouched() -> None:
    before = subject(labelled())
    weights = {k: v.clone() for k, v in before.graph.module.state_dict().items()}
    losses = iter([1.0] * 7 + [math.nan])  # held out, five batches, held out, the sixth

    def loss(outputs: Tensor, targets: Tensor | None) -> Tensor:
        return outputs.mean() * next(losses)

    assert message(lambda: train(before, FEW, loss=loss)) == (
        "quantization-aware training: the loss became nan at step 6 of 10; the recipe before is "
        "untouched. Start from a lower learning rate than 0.001."
    )
    with pytest.raises(TuneError, match="the recipe before is untouched"):
        train(before, replace(FEW, initial_lr=1e38))  # diverges by itself
    assert before.recipe == four_bits()
    assert all(torch.equal(v, weights[k]) for k, v in before.graph.module.state_dict().items())


def test_bad_input_is_named() -> None:
    (x,) = inputs("residual", 4)
    assert message(lambda: train(subject(), FEW)) == (
        "training data: are missing. Give some with training= or --train, or a loader."
    )
    assert message(lambda: train(subject(data("residual", 8)), FEW)) == (
        "data: has no labels to train on. Give (inputs, label) samples, distil from the float "
        "model alone (distill=1), or give a loss of your own."
    )
    assert message(lambda: train(subject(labelled(1)), FEW)) == (
        "training data: 1 sample is too few to train on some and hold others out. Give more "
        "samples, or hold none out."
    )
    scores = as_data((x, torch.rand(4)), "training data")
    assert message(lambda: train(subject(scores), FEW)) == (
        "training data: targets float32 (1,) are not class labels for outputs (1, 5). Give a loss "
        "of your own, or distil from the float model alone (distill=1)."
    )
    wrong = as_data((x, torch.full((4,), 5)), "training data")
    assert message(lambda: train(subject(wrong), FEW)) == (
        "training data: labels from 5 to 5, the model has classes 0 to 4. Give the labels that the "
        "model was trained with."
    )
    floats = replace(four_bits(), int8=False)
    assert message(lambda: train(subject(labelled(), floats), FEW)) == (
        "recipe: leaves every op in float, so there is no rounding to train for. Start from a "
        "recipe with int8 ops."
    )
    assert message(lambda: walked((i for i in [1]), None, 8)) == (
        "training loader generator: has no length, so the learning rate cannot be scheduled. Give "
        "a DataLoader, a list of batches, or anything else with len()."
    )
    assert message(lambda: train(subject(labelled()), FEW, loss=lambda o, t: o)) == (
        "loss <lambda>: gives (4, 5), not one number as a tensor. Return the mean over the samples."
    )
    with pytest.raises(DeviceError) as caught:
        train(subject(labelled()), replace(FEW, device="tpu"))
    assert str(caught.value) == "device tpu: is not there. Train on the cpu."


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"distill": 1.5}, "distill 1.5: is not from 0 to 1. Give another number."),
        ({"fraction": 2.0}, "fraction 2.0: is above 1. Give another number."),
        ({"initial_lr": math.nan}, "initial_lr nan: is not above 0. Give another number."),
        ({"lr": 0.0}, "lr 0.0: is not above 0. Give another number."),
        ({"held_out": 1.0}, "held_out 1.0: is not from 0 to below 1. Give another number."),
        (
            {"ranges": "learned"},
            "ranges 'learned': there is no such choice. Choose one of fixed, pact, lsq.",
        ),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_an_option_without_meaning_is_named(given: dict[str, Any], said: str) -> None:
    assert message(lambda: QATOptions(**given)) == said


def test_it_is_a_method_like_any_other() -> None:
    assert qat.sites(subject()) == ("conv1", "conv2", "conv3", "fc")
    names = {o.name for o in qat.OPTIONS}
    assert names <= {f for f in QATOptions.__dataclass_fields__}
    step = qat.apply(subject(labelled(), seed=3), schedule_epochs=10.0, batch_size=8)
    assert step.record["steps"] == 5
