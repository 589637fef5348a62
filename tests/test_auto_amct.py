"""The strategy ``amct``: ranking by cosine, bisection of what is rolled back, its three files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from auto_kit import opened
from networks import data, network, program, recipe

from qviz.auto import AutoResult
from qviz.auto_amct import shortest, within
from qviz.auto_amct_files import FINAL, RANKING, RECORD
from qviz.auto_cosine import similarities, similarity
from qviz.errors import MetricError
from qviz.export.import_amct import fits
from qviz.session import Session
from qviz.simulate import Simulator

ACCURACY = 0.9  # of the float model of auto_kit


def test_the_similarity_is_the_cosine_moved_to_0_to_1() -> None:
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert similarity(x, x) == 1.0
    assert similarity(x, y) == 0.5
    assert similarity(x, -x) == 0.0
    assert similarity(torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])) == pytest.approx(0.98)


def test_zeros_cannot_be_made_worse_and_zeros_instead_are_the_worst() -> None:
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    assert similarity(zeros, zeros) == 1.0
    assert similarity(zeros, ones) == 1.0
    assert similarity(ones, zeros) == 0.0


def test_long_vectors_are_summed_in_double_precision() -> None:
    x = torch.full((3 << 20,), 0.1)
    assert similarity(x, x) == pytest.approx(1.0, abs=1e-12)


def test_every_op_is_ranked_on_float_inputs_with_its_own_operands_rounded() -> None:
    """Against one run per op that rounds nothing else: its output then differs in the same way."""
    graph, made = network("residual")[1], recipe("residual")
    samples = data("residual", 8)
    found = similarities(Simulator(graph), made, samples, batch_size=4)
    assert list(found) == [op.name for op in graph.quantizable]
    simulator = Simulator(graph)
    for name in ("conv1", "conv3", "add", "fc"):
        expected = []
        for batch in samples.batches(4):
            outputs = []
            for edits in ({}, simulator.edits(made.only(name))):
                values = program("residual").inputs(batch)
                program("residual").run(values, edits, keep=True)
                slot = program("residual").steps[program("residual").step_of_op[name]].slot
                outputs.append(values[slot].flatten().double().numpy())
            a, b = outputs
            expected.append(0.5 + 0.5 * a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        assert found[name] == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_usual_evaluator_accepts_a_relative_drop() -> None:
    higher = within(0.01, higher_is_better=True)
    assert higher(0.8, 0.793)[0]
    assert not higher(0.8, 0.79)[0]
    accepted, loss = higher(0.8, 0.88)
    assert (accepted, round(loss, 9)) == (True, -0.1)
    accepted, loss = within(0.01, higher_is_better=False)(2.0, 2.1)
    assert (accepted, round(loss, 9)) == (False, 0.05)


def asked(layers: int, least: int) -> tuple[list[int], int | None]:
    """The lengths that the bisection asks for if ``least`` are enough, and what it finds."""
    lengths: list[int] = []

    def accepts(count: int) -> bool:
        lengths.append(count)
        return count >= least

    return lengths, shortest(layers, accepts)


@pytest.mark.parametrize(
    ("least", "lengths", "found"),
    [
        (1, [4, 2, 1], 1),
        (2, [4, 2, 1], 2),
        (3, [4, 2, 3], 3),
        (4, [4, 2, 3], 4),
        (5, [4, 6, 5], 5),
        (6, [4, 6, 5], 6),
        (7, [4, 6, 7], 7),
        (8, [4, 6, 7], None),
    ],
)
def test_the_bisection_asks_what_amct_asks(
    least: int, lengths: list[int], found: int | None
) -> None:
    """AMCT's BinarySearchStrategy with 8 layers, walked by hand: middle = (left + right) // 2."""
    assert asked(8, least) == (lengths, found)


@pytest.mark.parametrize("layers", range(1, 12))
def test_the_shortest_prefix_is_found(layers: int) -> None:
    for least in range(1, layers + 1):
        assert asked(layers, least)[1] == (least if least < layers else None)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return opened(tmp_path_factory.mktemp("amct") / "run")


def rolled_back(session: Session, max_drop: float, **more: Any) -> AutoResult:
    """With 5 bits, where the bisection has something to find."""
    return session.auto(
        strategy="amct",
        max_drop=max_drop,
        weight_bits=5,
        activation_bits=5,
        ends_at_8=False,
        **more,
    )


def written(session: Session, name: str) -> Any:  # noqa: ANN401 - JSON
    assert session.run is not None
    return json.loads((session.run.path / name).read_text())


def test_the_fewest_layers_are_rolled_back_and_the_three_files_written(session: Session) -> None:
    found = rolled_back(session, 0.1)
    assert found.reached
    assert found.best is not None
    assert found.recipe is not None
    assert found.files == (RANKING, RECORD, FINAL)
    ranking = written(session, RANKING)
    assert [s for _, s in ranking] == sorted(s for _, s in ranking)
    assert {name for name, _ in ranking} == {op.name for op in session.graph.quantizable}
    count = len(found.recipe.skipped)
    assert 0 < count < len(ranking)
    assert found.recipe.skipped == tuple(name for name, _ in ranking[:count])
    records = written(session, RECORD)
    assert list(records[0]["roll_back_config"].values()) == [True] * len(ranking)
    accepted = [r for r in records if r["metric_eval"][0]]
    assert len([v for v in accepted[-1]["roll_back_config"].values() if not v]) == count
    last = found.steps[-1].after
    assert last is not None
    assert records[-1]["metric_eval"][1] == pytest.approx(1 - last / ACCURACY)
    config = written(session, FINAL)
    assert config["version"] == 1
    for name in ("stem", "block.first", "block.second", "head"):
        assert config[name]["quant_enable"] is (name not in found.recipe.skipped)
    layers = "1 layer" if count == 1 else f"{count} layers"
    assert found.ended == f"{layers} rolled back: no fewer satisfy the evaluator"
    assert found.best.way[-1].names == found.recipe.skipped


def test_amct_reads_the_final_config(session: Session) -> None:
    rolled_back(session, 0.1)
    assert session.run is not None
    assert fits(session.run.path / FINAL)


def test_a_second_run_measures_nothing_again(session: Session) -> None:
    first = rolled_back(session, 0.1)
    assert session.run is not None
    before = (session.run.path / "auto.jsonl").read_bytes()
    again = rolled_back(session, 0.1)
    assert all(step.known for step in again.steps)
    assert again.recipe == first.recipe
    assert (session.run.path / "auto.jsonl").read_bytes() == before


def test_everything_int8_is_enough_where_the_evaluator_is_satisfied(session: Session) -> None:
    found = rolled_back(session, 0.99)
    assert found.ended == "everything int8 satisfies the evaluator"
    assert len(found.steps) == 1
    assert found.recipe is not None
    assert found.recipe.skipped == ()


def test_with_all_layers_rolled_back_there_is_no_output(session: Session) -> None:
    found = rolled_back(session, 0.0, evaluator=lambda original, new: (new == original, 1.0))
    assert not found.reached
    assert found.best is None
    assert found.recipe is None
    assert found.commands == ()
    assert found.files == (RANKING, RECORD)
    assert found.ended == (
        "only the float model satisfies the evaluator: all layers rolled back, no output"
    )
    assert session.run is not None
    assert not (session.run.path / FINAL).exists()
    assert not any(written(session, RECORD)[-1]["roll_back_config"].values())


def test_an_evaluator_that_refuses_the_float_model_is_named(session: Session) -> None:
    with pytest.raises(MetricError) as error:
        rolled_back(session, 0.1, evaluator=lambda original, new: (False, 0.0))
    assert str(error.value) == (
        "evaluator: it does not accept the float model's own top1 of 0.9. Accept equal values."
    )


def test_an_evaluator_of_other_code_is_asked_anew(tmp_path: Path) -> None:
    session = opened(tmp_path / "run")
    lenient = session.auto(strategy="amct", evaluator=lambda a, b: (True, a - b))
    assert lenient.reached
    strict = session.auto(strategy="amct", evaluator=lambda a, b: (b >= a, a - b), weight_bits=4)
    again = session.auto(strategy="amct", evaluator=lambda a, b: (b > a + 1 or a == b, a - b))
    assert not any(step.known for step in again.steps)
    assert strict.best != lenient.best
