from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_models import CASES, Block, Case, Made, make, max_recipe
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from qviz.capture import capture
from qviz.data import Batch
from qviz.errors import RecipeError
from qviz.graph import Operand
from qviz.int8 import twin
from qviz.int8.lower import lower, plain_spec
from qviz.int8.parity import parity
from qviz.int8.pool import max_pool
from qviz.recipe import Override
from qviz.simulate import Simulator


def calls(made: Made, kernel: str) -> int:
    nodes = made.lowered.module.graph.nodes
    return sum(
        n.op == "call_function" and twin.is_integer_call(n) and twin.kernel_of(n) == kernel
        for n in nodes
    )


def run(made: Made, batch: Batch) -> list[Tensor]:
    with torch.no_grad():
        return pytree.tree_leaves(made.lowered.module(*batch.args, **batch.kwargs))


def assert_agrees(made: Made, batch: Batch | None = None) -> None:
    """The program computes the simulation: per op to one step, at the end to float rounding."""
    batch = batch or made.batch
    found = parity(made.lowered.module, made.lowered.calls, [batch])
    found.check()
    for real, simulated in zip(run(made, batch), made.simulated(batch), strict=True):
        away = (real - simulated).double()
        assert away.square().mean() <= 1e-5 * simulated.double().square().mean()
        assert real.dtype == simulated.dtype


def kernel_of(made: Made, op: str) -> str:
    return next(r.kernel for r in made.lowered.rows if r.op == op)


def reason_of(made: Made, op: str) -> str:
    return next(r.reason for r in made.lowered.rows if r.op == op)


@pytest.mark.parametrize("case", CASES)
def test_a_lowered_model_computes_what_was_simulated(case: str) -> None:
    made = make(case)
    assert_agrees(made)
    assert made.lowered.integer_ops == CASES[case].integer_ops
    assert made.lowered.calls


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_batch_size_stays_free(case: str, size: int) -> None:
    assert_agrees(make(case), CASES[case].inputs(size))


@pytest.mark.parametrize("case", CASES)
def test_weights_at_four_bits_and_activations_at_six(case: str) -> None:
    assert_agrees(make(case, weight_bits=4, activation_bits=6))


@pytest.mark.parametrize("case", CASES)
def test_one_scale_per_weight_tensor(case: str) -> None:
    assert_agrees(make(case, per_channel=False))


@pytest.mark.parametrize("case", CASES)
def test_without_int8_it_is_the_float_model(case: str) -> None:
    made = make(case, int8=False)
    assert made.lowered.integer_ops == 0
    assert not [n for n in made.lowered.module.graph.nodes if "qviz" in str(n.target)]
    expected = pytree.tree_leaves(made.model(*made.batch.args, **made.batch.kwargs))
    for real, wanted in zip(run(made, made.batch), expected, strict=True):
        torch.testing.assert_close(real, wanted)


@given(data=st.data())
@settings(max_examples=8, deadline=None)
@pytest.mark.parametrize("case", ["residual CNN", "transformer block", "products"])
def test_any_choice_of_operands_is_followed(case: str, data: st.DataObject) -> None:
    made = make(case)
    operands: list[Operand] = list(made.simulator.graph.operands.values())
    off = data.draw(st.sets(st.sampled_from([o.name for o in operands])))
    recipe = made.recipe.skip(*sorted(off))
    lowered = lower(made.simulator.graph, recipe, made.simulator)
    assert_agrees(Made(made.model, made.batch, made.simulator, recipe, lowered))


def test_codes_stay_codes_between_kernels() -> None:
    made = make("residual CNN")
    assert calls(made, "quantize") == 1  # the input
    assert calls(made, "dequantize") == 0
    assert calls(made, "add") == 0  # fused


def test_a_residual_block_is_one_kernel() -> None:
    made = make("residual CNN")
    row = next(r for r in made.lowered.rows if r.op == "point")
    assert row.fused == ("add", "relu.1")
    assert reason_of(made, "add") == "fused into point"


def test_a_tensor_is_quantized_once_for_all_readers_of_one_grid() -> None:
    made = make("transformer block")
    # x for the first add, two layer norms, attention output, softmax, gelu, second x
    names = [made.lowered.calls[n.name] for n in made.lowered.module.graph.nodes
             if n.name in made.lowered.calls and "quantize" in n.name]  # fmt: skip
    assert len(names) == len(set(names))


def test_a_float_reader_keeps_the_value_float() -> None:
    made = make("residual CNN", Override("left", int8=False))
    assert kernel_of(made, "left") == "float"
    assert reason_of(made, "left") == "float by choice"
    assert kernel_of(made, "right") == "int8 conv"
    assert_agrees(made)


@pytest.mark.parametrize("part", ["weight", "input"])
def test_an_op_with_one_int8_operand_runs_in_float_on_rounded_values(part: str) -> None:
    made = make("residual CNN", Override(f"head/{part}", int8=False))
    other = {"weight": "head/weight", "input": "head/input"}[part]
    assert kernel_of(made, "head") == "float"
    assert reason_of(made, "head") == f"{other} is float: float by choice"
    assert_agrees(made)


def test_a_weight_of_a_float_op_is_stored_as_codes_too() -> None:
    made = make("residual CNN", Override("head/input", int8=False))
    weight = made.lowered.weights["head.weight"]
    stored = made.lowered.module.get_buffer("head.weight")
    assert torch.equal(weight.dequantized(), stored)


def test_a_weight_read_as_int8_and_as_float_is_stored_twice() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 8)

        def forward(self, ids: Tensor) -> Tensor:
            return F.linear(torch.tanh(self.words(ids)), self.words.weight)

    made = make(Case(Tied, lambda n: Batch((torch.randint(0, 20, (n, 3)),), {}, None, n), 1))
    names = dict(made.lowered.module.named_buffers())
    assert names["words.weight"].dtype == torch.int8
    assert names["words.weight_float"].dtype == torch.float32
    assert_agrees(made)


def test_a_profile_with_zero_points_is_refused() -> None:
    made = make("residual CNN", int8=False)
    recipe = max_recipe(made.simulator, made.batch, profile="ort-cpu")
    with pytest.raises(RecipeError) as caught:
        lower(made.simulator.graph, recipe)
    assert str(caught.value) == (
        "profile ort-cpu: its codes have zero points, and the integer kernels take symmetric int8 "
        "only. Make the recipe for one of cuda, tensorrt, or export it as ONNX."
    )


def test_an_unsigned_promise_is_only_made_for_values_that_cannot_be_negative() -> None:
    class Signs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.a(x))
            out: Tensor = self.b(y) + self.c(y * -1)
            return out

    made = make(Case(Signs, lambda n: Batch((torch.randn(n, 8),), {}, None, n), 4))
    promises = {
        made.lowered.calls[n.name]: n.kwargs.get("x_qmin", -128)
        for n in made.lowered.module.graph.nodes
        if n.op == "call_function" and twin.is_integer_call(n) and twin.kernel_of(n) == "linear"
    }
    assert promises == {"a": -128, "b": 0, "c": -128}
    assert_agrees(made)


def test_a_constant_is_computed_once() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return F.scaled_dot_product_attention(y, y, y, is_causal=True)

    made = make(Case(Causal, lambda n: Batch((torch.randn(n, 4, 8),), {}, None, n), 3))
    assert not [n for n in made.lowered.module.graph.nodes if "triu" in str(n.target)]
    assert_agrees(made)


def test_the_float_twin_is_the_model_with_rounded_weights() -> None:
    for case in CASES:
        made = make(case)
        real = twin.float_twin(made.lowered.module)
        assert not [n for n in real.graph.nodes if "qviz" in str(n.target)]
        weights_only = made.recipe.override(Override("kind:activation", int8=False))
        program = made.simulator.program
        wanted = program.run(program.inputs(made.batch), made.simulator.edits(weights_only))
        given = pytree.tree_leaves(real(*made.batch.args, **made.batch.kwargs))
        for a, b in zip(given, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@given(
    size=st.integers(3, 9),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    dims=st.integers(1, 3),
    ceil_mode=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_pooling_codes_is_pooling_values(
    size: int, kernel: int, stride: int, dilation: int, dims: int, ceil_mode: bool,
    channels_last: bool, seed: int,
) -> None:  # fmt: skip
    if dilation * (kernel - 1) + 1 > size:
        return
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, *(size,) * dims)
    x = torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)
    if channels_last and dims == 2:
        x = x.contiguous(memory_format=torch.channels_last)
    how = ([kernel] * dims, [stride] * dims, [kernel // 2] * dims, [dilation] * dims, ceil_mode)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[dims]
    wanted = pool(x.float(), *how)
    assert torch.equal(max_pool(x, *how).float(), wanted)


def test_a_class_of_the_users_in_the_output_becomes_a_dict() -> None:
    class Pair:
        def __init__(self, a: object, b: object) -> None:
            self.a, self.b = a, b

    pytree.register_pytree_node(
        Pair, lambda p: ([p.a, p.b], ["a", "b"]), lambda v, _: Pair(*v),
        serialized_type_name="test.Pair",
    )  # fmt: skip
    spec = pytree.tree_structure({"x": Pair(1, (2, 3))})
    plain = plain_spec(spec)
    assert pytree.tree_unflatten([1, 2, 3], plain) == {"x": {"a": 1, "b": (2, 3)}}


def test_lowering_changes_neither_graph_nor_model() -> None:
    torch.manual_seed(0)
    model = Block().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batch = Batch((torch.randn(2, 6, 32),), {}, None, 2)
    graph = capture(model, batch)
    text = str(graph.module.graph)
    lower(graph, max_recipe(Simulator(graph), batch))
    assert str(graph.module.graph) == text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
