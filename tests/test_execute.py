"""Program: runs the graph, from any op on, and writes to nothing that is not its own."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, batch, inputs, made, network, program, recipe
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from qviz.capture import capture
from qviz.errors import DataError, ShapeError
from qviz.execute import Edit, Edits, Program
from qviz.kernels import softmax_
from qviz.simulate import Simulator


class Elementwise(nn.Module):
    """Every kind of op that may overwrite what it reads, several readers, outputs in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.mix = nn.Conv2d(4, 4, 1)
        self.register_buffer("mask", torch.arange(8) > 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = F.silu(self.conv(x))
        y = y * torch.sigmoid(self.mix(F.relu(self.mix(y.mean((2, 3), keepdim=True)))))
        gate = torch.sigmoid(F.relu(self.mix(y)))
        z = F.hardswish(self.mix(y * gate)) + y
        z = F.gelu(z + 1).masked_fill(self.mask, 0.5)  # type: ignore[arg-type]
        w = F.leaky_relu(self.mix(z).tanh() * 2 + z)
        return w, gate, F.elu(self.mix(F.hardtanh(self.mix(w)))), x


class Chain(nn.Module):
    """Linear layers and norms on tokens, as in an MLP with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        for _ in range(2):
            y = y + self.down(F.silu(self.gate(y)) * self.up(y))
        scores = torch.softmax((y @ y.transpose(1, 2)) * 0.3 + 1, -1)
        return torch.relu(scores @ y + x)


@functools.cache
def simulator(name: str) -> Simulator:
    if name == "elementwise":
        return Simulator(capture(made(Elementwise()), batch(*given(name, 2))))
    if name == "chain":
        return Simulator(capture(made(Chain()), batch(*given(name, 2))))
    return Simulator(network(name)[1])


def given(name: str, count: int) -> tuple[Tensor, ...]:
    if name == "elementwise":
        return inputs("residual", count)
    if name == "chain":
        return inputs("seq first", count)
    return inputs(name, count)


ALL = (*NETWORKS, "elementwise", "chain")


class Shift:
    """An edit that shows where it was applied."""

    def __call__(self, x: Tensor) -> Tensor:
        return x * 0.5 + 0.25


def edits_of(sim: Simulator, operands: list[str]) -> dict[int, list[tuple[int, Edit]]]:
    """Activations shifted, weights halved; one tensor read twice has one edit."""
    shifts: dict[str, Shift] = {}
    edits: dict[int, list[tuple[int, Edit]]] = {}
    for name in operands:
        operand = sim.graph.operands[name]
        edit: Edit = shifts.setdefault(operand.tensor, Shift())
        if operand.kind == "weight":
            edit = sim.program.parameter(operand.tensor) * 0.5
        edits.setdefault(sim.program.step_of_op[operand.op], []).append((operand.position, edit))
    return edits


def snapshot(values: list[Any]) -> list[list[Tensor]]:
    return [[t.clone() for t in tensors(v)] for v in values]


def tensors(value: object) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


def unchanged(values: list[Any], before: list[list[Tensor]]) -> bool:
    return all(
        torch.equal(now, was)
        for value, old in zip(values, before, strict=True)
        for now, was in zip(tensors(value), old, strict=True)
    )


def equal(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# resuming


@pytest.mark.parametrize("name", ALL)
def test_resuming_at_any_op_gives_the_bits_of_a_full_run(name: str) -> None:
    sim = simulator(name)
    prog = sim.program
    kept = prog.inputs(batch(*given(name, 3)))
    prog.run(kept, keep=True)
    before = snapshot(kept)
    for op in sim.graph.quantizable:
        edits = edits_of(sim, [o.name for o in op.operands])
        full = prog.run(prog.inputs(batch(*given(name, 3))), edits)
        resumed = prog.run(list(kept), edits, start=prog.step_of_op[op.name])
        assert equal(full, resumed), op.name
    assert unchanged(kept, before)


@pytest.mark.parametrize("name", ALL)
def test_resuming_an_edited_prefix_gives_the_bits_of_a_full_run(name: str) -> None:
    sim = simulator(name)
    prog = sim.program
    base = edits_of(sim, list(sim.graph.operands))
    kept = prog.inputs(batch(*given(name, 3)))
    prog.run(kept, base, keep=True)
    before = snapshot(kept)
    for op in sim.graph.quantizable:
        start = prog.step_of_op[op.name]
        edits: Edits = {step: e for step, e in base.items() if step != start}
        full = prog.run(prog.inputs(batch(*given(name, 3))), edits)
        assert equal(full, prog.run(list(kept), edits, start=start)), op.name
    assert unchanged(kept, before)


@pytest.mark.parametrize("name", ALL)
def test_keeping_everything_changes_no_bit(name: str) -> None:
    prog = simulator(name).program
    a = prog.run(prog.inputs(batch(*given(name, 3))))
    b = prog.run(prog.inputs(batch(*given(name, 3))), keep=True)
    assert equal(a, b)


@pytest.mark.parametrize("name", ALL)
def test_a_run_writes_neither_to_inputs_nor_to_weights_nor_to_edits(name: str) -> None:
    sim = simulator(name)
    x = given(name, 3)
    edits = edits_of(sim, list(sim.graph.operands))
    weights = [e for items in edits.values() for _, e in items if isinstance(e, Tensor)]
    values = sim.program.inputs(batch(*x))
    watched = [*x, *values, *weights]
    before = snapshot(watched)
    first = sim.program.run(list(values))
    sim.program.run(list(values), edits)
    assert unchanged(watched, before)
    assert equal(first, sim.program.run(list(values)))


def test_the_networks_above_do_have_ops_that_overwrite() -> None:
    kinds = {
        step.in_place.__name__.split(".")[0]
        for name in ALL
        for step in simulator(name).program.steps
        if step.in_place is not None
    }
    assert kinds >= {
        *("relu_", "silu_", "sigmoid_", "hardswish_", "gelu_", "tanh_"),
        *("leaky_relu_", "elu_", "hardtanh_", "add_", "mul_", "softmax_"),
    }


@pytest.mark.parametrize("shape", [(4, 197, 197), (7, 3), (5, 1000), (2, 3, 5, 17), (3, 1)])
def test_softmax_over_its_own_input_gives_the_same_bits(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = torch.softmax(x, -1)
    own = x.clone()
    assert softmax_(own, -1) is own
    assert torch.equal(own, wanted)


def test_softmax_of_another_axis_or_of_a_view_is_a_new_tensor() -> None:
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    assert torch.equal(softmax_(x, 1), torch.softmax(before, 1))
    assert torch.equal(softmax_(x.mT, -1), torch.softmax(before.mT, -1))
    assert torch.equal(x, before)


def test_outputs_and_inputs_that_are_outputs_survive() -> None:
    prog = simulator("elementwise").program
    (x,) = given("elementwise", 3)
    _, gate, _, same = prog.run(prog.inputs(batch(x)))
    assert torch.equal(same, x)
    assert float(gate.min()) >= 0.5  # a sigmoid of a relu, not yet multiplied


# running


@pytest.mark.parametrize("name", ALL)
def test_plain_steps_give_the_same_up_to_rounding(name: str) -> None:
    sim = simulator(name)
    plain = sim.differentiable
    assert all(step.in_place is None for step in plain.steps)
    a = sim.program.run(sim.program.inputs(batch(*given(name, 3))))
    b = plain.run(plain.inputs(batch(*given(name, 3))))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_values_are_dropped_after_their_last_reader() -> None:
    prog = program("residual")
    values = prog.inputs(batch(*inputs("residual", 2)))
    (out,) = prog.run(values)
    left = [v for i, v in enumerate(values) if i in prog.step_of_slot and v is not None]
    assert len(left) == 1
    assert left[0] is out


def test_a_watch_sees_every_input_and_every_step_s_value_once() -> None:
    prog = program("residual")
    seen: list[str] = []

    def watch(slot: int, value: Tensor) -> None:
        seen.append(prog.tensor_of_slot[slot])

    prog.run(prog.inputs(batch(*inputs("residual", 2))), watch=watch)
    assert seen == ["x", *network("residual")[1].ops]


def test_one_edit_of_a_tensor_that_two_ops_read_runs_once() -> None:
    sim = simulator("residual")
    calls: list[tuple[int, ...]] = []

    def count(x: Tensor) -> Tensor:
        calls.append(tuple(x.shape))
        return x

    edits = {
        sim.program.step_of_op["conv2"]: [(0, count)],
        sim.program.step_of_op["add"]: [(1, count)],
    }
    sim.program.run(sim.program.inputs(batch(*inputs("residual", 2))), edits)
    assert calls == [(2, 4, 8, 8)]


def test_a_program_may_run_in_several_threads_at_once() -> None:
    prog = program("tokens")
    given_inputs = [batch(*inputs("tokens", 4, seed)) for seed in range(8)]
    want = [prog.run(prog.inputs(b))[0] for b in given_inputs]
    fresh = Program(network("tokens")[1])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda b: fresh.run(fresh.inputs(b))[0], given_inputs))
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_what_does_not_depend_on_the_input_is_computed_once() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)
            self.table = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            table = self.table.exp() * 2
            out: Tensor = self.fc(x) * table
            return out, table

    graph = capture(made(Table()), batch(torch.randn(2, 6)))
    prog = Program(graph)
    assert set(prog.step_of_op) == {"fc", "mul.1"}
    assert prog.run(prog.inputs(batch(torch.randn(3, 6))))[1].shape == (4,)


# inputs that do not fit


def test_a_missing_input_is_named() -> None:
    prog = program("twins")
    with pytest.raises(DataError) as caught:
        prog.inputs(batch(torch.randn(2, 6)))
    assert str(caught.value) == (
        "input b: Twins needs it, the data does not have it. "
        "Let the data yield the inputs in order, or as a dict of argument names."
    )


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(2, 3, 8, 9), "float32 (3, 8, 9)"),
        (torch.zeros(2, 1, 8, 8), "float32 (1, 8, 8)"),
        (torch.zeros(2, 3, 8), "float32 (3, 8)"),
        (torch.zeros(2, 3, 8, 8).double(), "float64 (3, 8, 8)"),
        (torch.zeros(2, 3, 8, 8).byte(), "uint8 (3, 8, 8)"),
    ],
    ids=["width", "channels", "dimensions", "float64", "bytes"],
)
def test_an_input_of_another_kind_is_named_with_both(x: Tensor, text: str) -> None:
    with pytest.raises(ShapeError) as caught:
        program("residual").inputs(batch(x))
    assert str(caught.value) == (
        f"input x: samples are {text}, the model takes float32 (3, 8, 8). "
        "Give data as the model was trained on, preprocessing included."
    )


def test_a_recipe_s_edits_leave_kept_values_as_they_are() -> None:
    sim = simulator("residual")
    kept = sim.program.inputs(batch(*inputs("residual", 4)))
    sim.program.run(kept, keep=True)
    before = snapshot(kept)
    sim.program.run(list(kept), sim.edits(recipe("residual")), start=0)
    assert unchanged(kept, before)
