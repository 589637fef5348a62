"""Capture: every call is an op, every value a tensor, and the user's model stays as it was."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import Residual, batch, inputs, made, network, run
from torch import Tensor, nn
from torch.export import Dim

from qviz.capture import capture
from qviz.collate import Batch
from qviz.errors import DataError, UnsupportedModelError
from qviz.graph import Graph
from qviz.loading_pt2 import load_exported

VECTORS = torch.randn(2, 6)
IMAGES = torch.randn(2, 3, 8, 8)


class Call(nn.Module):
    """A model whose forward is a function of its layers and one input."""

    fc: Callable[..., Tensor]
    lstm: Callable[..., tuple[Tensor, object]]

    def __init__(self, call: Callable[[Call, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        return self.call(self, x)


def captured(model: nn.Module, *args: Tensor) -> Graph:
    return capture(made(model), batch(*args))


def reasons(graph: Graph) -> dict[str, str | None]:
    return {op.type: op.reason for op in graph.ops.values() if not op.operands}


def operands(graph: Graph) -> list[str]:
    return list(graph.operands)


# what is in the graph


def test_residual_add_functional_ops_and_reused_modules_are_ops_of_their_own() -> None:
    graph = network("residual")[1]
    assert list(graph.ops) == [
        "conv1",
        "relu:relu",
        "conv2",
        "relu:relu.1",
        "conv3",
        "add",
        "relu:relu.2",
        "pool",
        "flatten",
        "fc",
    ]
    assert operands(graph) == [
        *("conv1/input", "conv1/weight", "conv2/input", "conv2/weight"),
        *("conv3/input", "conv3/weight", "add/0", "add/1", "fc/input", "fc/weight"),
    ]


def test_both_matmuls_of_attention_are_ops_with_two_operands() -> None:
    graph = network("tokens")[1]
    assert [o for o in operands(graph) if "matmul" in o] == [
        *("attn:matmul/0", "attn:matmul/1", "attn:matmul.1/0", "attn:matmul.1/1")
    ]
    assert graph.ops["attn:matmul"].type == "matmul"


@pytest.mark.parametrize("name", ["residual", "tokens", "seq first", "twins"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_graph_captured_with_two_samples_runs_with_any_number(name: str, count: int) -> None:
    model, graph = network(name)
    x = inputs(name, count, seed=1)
    with torch.no_grad():
        want = model(*x)
    torch.testing.assert_close(run(graph, *x)[0], want, rtol=1e-4, atol=1e-5)


def test_one_sample_is_enough_to_capture_with_a_free_batch_size() -> None:
    model = made(nn.Linear(6, 4))
    graph = capture(model, batch(VECTORS[:1]))
    assert run(graph, torch.randn(5, 6))[0].shape == (5, 4)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.fc(x) * scale
        return out


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, *xs: Tensor) -> Tensor:
        out: Tensor = self.fc(xs[0]) - self.fc(xs[1])
        return out


@pytest.mark.parametrize(
    ("model", "args", "keywords"),
    [
        (Two, ("x", "scale"), ()),
        (Two, (), ("x", "scale")),
        (Two, (), ("scale", "x")),
        (Two, ("x",), ("scale",)),
        (Many, ("x", "other"), ()),
    ],
    ids=["a tuple", "a dict", "a dict in another order", "both", "*args"],
)
def test_several_inputs_may_come_as(
    model: type[nn.Module], args: tuple[str, ...], keywords: tuple[str, ...]
) -> None:
    net = made(model())

    def values(count: int) -> Batch:
        g = torch.Generator().manual_seed(count)
        sizes = {"x": 6, "other": 6, "scale": 4}
        given = {k: torch.randn(count, n, generator=g) for k, n in sizes.items()}
        positional = [given[k] for k in args]
        return batch(*positional, **{k: given[k] for k in keywords})

    graph = capture(net, values(2))
    other = values(3)
    with torch.no_grad():
        want = net(*other.args, **other.kwargs)
    torch.testing.assert_close(run(graph, *other.args, **other.kwargs)[0], want)


def test_several_outputs_keep_their_names_and_their_nesting() -> None:
    def forward(self: Call, x: Tensor) -> object:
        y = self.fc(x)
        return {"scores": y, "rest": [x, (y * 2,)]}

    graph = captured(Call(forward, fc=nn.Linear(6, 4)), VECTORS)
    assert graph.outputs == ("fc", "x", "mul")
    found = run(graph, VECTORS)
    tree = torch.utils._pytree.tree_unflatten(found, graph.output_spec)
    assert set(tree) == {"scores", "rest"}
    assert torch.equal(tree["rest"][0], VECTORS)
    assert torch.equal(tree["rest"][1][0], 2 * tree["scores"])


def test_integer_inputs_keep_their_type_and_lookups_stay_float() -> None:
    graph = network("tokens")[1]
    assert graph.tensors["ids"].dtype == "int64"
    assert "ids" not in graph.observed
    assert graph.ops["embed"].reason == (
        "embedding looks values up by index: no arithmetic to quantize"
    )


def test_an_input_that_is_called_like_a_module_has_a_name_of_its_own() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Linear(6, 4)

        def forward(self, features: Tensor) -> Tensor:
            out: Tensor = self.features(features)
            return out

    graph = captured(Clash(), VECTORS)
    assert list(graph.tensors) == ["input:features", "features"]
    assert graph.observed == ("input:features",)
    assert run(graph, VECTORS)[0].shape == (2, 4)


def test_an_exported_program_is_captured_as_its_model_is(tmp_path: Path) -> None:
    model, graph = network("residual")
    x = inputs("residual", 4)
    program = torch.export.export(model, x, dynamic_shapes=({0: Dim("n")},), strict=False)
    torch.export.save(program, tmp_path / "net.pt2")
    again = capture(load_exported(tmp_path / "net.pt2"), batch(*inputs("residual", 2)))
    assert list(again.ops) == list(graph.ops)
    assert again.macs == graph.macs
    assert torch.equal(run(again, *x)[0], run(graph, *x)[0])


def test_a_decomposed_program_has_the_same_quantizable_ops() -> None:
    model, graph = network("residual")
    x = inputs("residual", 4)
    program = torch.export.export(model, x, dynamic_shapes=({0: Dim("n")},), strict=False)
    again = capture(program.run_decompositions(), batch(*inputs("residual", 2)))
    assert operands(again) == operands(graph)
    assert again.macs == graph.macs
    torch.testing.assert_close(run(again, *x)[0], run(graph, *x)[0])


# the user's model


def test_the_model_is_bit_equal_afterwards_and_shares_no_memory_with_the_graph() -> None:
    model = made(Residual())
    model.get_submodule("conv2").train()
    before = copy.deepcopy(model.state_dict())
    graph = capture(model, batch(IMAGES))
    assert {k: v.training for k, v in model.named_modules() if v.training} == {"conv2": True}
    for parameter in graph.module.state_dict().values():
        if parameter.is_floating_point():
            parameter.fill_(7)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_the_samples_are_unmarked_afterwards() -> None:
    x = torch.randn(2, 6)
    capture(nn.Linear(6, 4), batch(x))
    assert vars(x) == {}  # torch.export remembers in the tensor which axes are dynamic


def test_training_flags_are_restored_after_an_exception() -> None:
    def forward(self: Call, x: Tensor) -> object:
        raise ValueError("no such head")

    inner = nn.Linear(6, 4)
    model = Call(forward, fc=inner)
    model.train()
    inner.eval()
    before = logging.root.manager.disable
    with pytest.raises(UnsupportedModelError):
        capture(model, batch(VECTORS))
    assert (model.training, inner.training) == (True, False)
    assert logging.root.manager.disable == before


# models that cannot be captured


def refusal(model: nn.Module, given: Batch) -> str:
    with pytest.raises(UnsupportedModelError) as caught:
        capture(model, given)
    return str(caught.value)


def test_a_batch_size_fixed_by_the_code_is_refused() -> None:
    model = Call(lambda self, x: self.fc(x.reshape(2, 6)), fc=nn.Linear(6, 4))
    assert refusal(model, batch(VECTORS)) == (
        "Call: its batch size is fixed to 2 by the code of forward. "
        "Use x.shape[0] or -1 instead of a number for the batch axis."
    )


def test_control_flow_on_values_is_refused_with_its_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def forward(self: Call, x: Tensor) -> object:
        if x.sum() > 0:
            return self.fc(x)
        return x

    line = forward.__code__.co_firstlineno + 1
    assert refusal(Call(forward, fc=nn.Linear(6, 4)), batch(VECTORS)) == (
        f"Call: torch.export refuses it at test_capture.py:{line}: Could not guard on "
        "data-dependent expression Eq(u0, 1). Replace Python control flow on tensor values by "
        "torch.where or a fixed branch."
    )
    assert capfd.readouterr().err == ""


def test_item_as_the_bound_of_a_loop_is_refused_with_its_line() -> None:
    def forward(self: Call, x: Tensor) -> object:
        for _ in range(int(x.sum().item())):
            x = self.fc(x)
        return x

    line = forward.__code__.co_firstlineno + 1
    assert refusal(Call(forward, fc=nn.Linear(6, 6)), batch(VECTORS)) == (
        f"Call: torch.export refuses it at test_capture.py:{line}: Could not extract specialized "
        "integer from data-dependent expression TruncToInt(zuf0). Replace Python control flow on "
        "tensor values by torch.where or a fixed branch."
    )


def test_item_used_as_a_number_is_captured() -> None:
    model = made(Call(lambda self, x: self.fc(x) * x.max().item(), fc=nn.Linear(6, 4)))
    graph = capture(model, batch(VECTORS))
    other = torch.randn(3, 6)
    with torch.no_grad():
        torch.testing.assert_close(run(graph, other)[0], model(other))


def test_numpy_in_forward_is_refused_with_its_line() -> None:
    def forward(self: Call, x: Tensor) -> object:
        return self.fc(torch.from_numpy(x.numpy() * 2))

    line = forward.__code__.co_firstlineno + 1
    assert refusal(Call(forward, fc=nn.Linear(6, 4)), batch(VECTORS)) == (
        f"Call: torch.export refuses it at test_capture.py:{line}: .numpy() is not supported for "
        "tensor subclasses. Keep tensors as tensors in forward: no .item(), .numpy() or float()."
    )


def test_data_of_another_shape_is_refused_with_the_sizes() -> None:
    def forward(self: Call, x: Tensor) -> object:
        return self.fc(x)

    line = forward.__code__.co_firstlineno + 1
    assert refusal(Call(forward, fc=nn.Linear(5, 4)), batch(VECTORS)) == (
        f"Call: torch.export refuses it at test_capture.py:{line}: a and b must have same "
        "reduction dim, but got [s77, 6] X [5, 4]. "
        "Check that the data has the shape and dtype the model expects."
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_must_be_float32(dtype: torch.dtype) -> None:
    model = nn.Linear(6, 4).to(dtype)
    kind = str(dtype).removeprefix("torch.")
    assert refusal(model, batch(VECTORS.to(dtype))) == (
        f"Linear: parameter weight is {kind}, ranges need float32. Convert with model.float()."
    )


def test_data_that_forward_cannot_take_is_named() -> None:
    with pytest.raises(DataError) as caught:
        capture(Two(), batch(VECTORS))
    assert str(caught.value) == (
        "data: the forward of Two cannot be called with it: missing a required argument: 'scale'. "
        "Let the data yield the inputs in order, or as a dict of argument names."
    )


def test_a_program_of_one_batch_size_is_refused() -> None:
    program = torch.export.export(nn.Linear(6, 4), (VECTORS,))
    with pytest.raises(UnsupportedModelError) as caught:
        capture(program, batch(VECTORS))
    assert str(caught.value) == (
        "program: it was exported for one batch size. "
        'Export it with dynamic_shapes, {0: torch.export.Dim("batch")} for every input.'
    )


def test_a_program_with_another_free_axis_is_refused() -> None:
    x = torch.randn(2, 5, 6)
    program = torch.export.export(
        nn.Linear(6, 4), (x,), dynamic_shapes=({0: Dim("n"), 1: Dim("s")},)
    )
    with pytest.raises(UnsupportedModelError) as caught:
        capture(program, batch(x))
    assert str(caught.value) == (
        "program: axis 1 of its input input has no fixed size. "
        "Export it with a fixed size for every axis but the first."
    )


def test_a_program_with_nested_inputs_is_refused() -> None:
    class Nested(nn.Module):
        def forward(self, xs: list[Tensor]) -> Tensor:
            return xs[0] + xs[1]

    free = {0: Dim("n")}
    program = torch.export.export(Nested(), ([VECTORS, VECTORS],), dynamic_shapes=([free, free],))
    with pytest.raises(UnsupportedModelError) as caught:
        capture(program, batch(VECTORS))
    assert str(caught.value) == (
        "program: its input 0 is a list of tensors. "
        "Wrap the model so that every argument of forward is one tensor."
    )


# why an op stays float


def test_an_lstm_is_one_opaque_op() -> None:
    model = Call(lambda self, x: self.lstm(x)[0], lstm=nn.LSTM(6, 4, batch_first=True))
    graph = captured(model, torch.randn(2, 5, 6))
    assert reasons(graph)["lstm"] == (
        "lstm is one opaque op: torch.export does not show the products inside"
    )
    assert not graph.operands


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (lambda x: torch.einsum("nc,mc->nm", x, x), "einsum", "einsum is not split into matmuls: "
         "write it as torch.matmul to quantize it"),
        (lambda x: x + 1.0, "add", "adds a constant"),
        (lambda x: x + torch.ones(2, 6)[0], "add", "adds with broadcasting"),
        (lambda x: x + x, "add", "adds a tensor to itself"),
        (lambda x: torch.add(x, x.exp(), alpha=2), "add", "adds with a factor"),
        (lambda x: x.long() + x.long().abs(), "add",
         "works on integers or booleans, not on float values"),
        (lambda x: x.exp(), "exp", "exp has no int8 arithmetic"),
    ],
    ids=["einsum", "constant", "broadcast", "itself", "factor", "integers", "elementwise"],
)  # fmt: skip
def test_the_reason_for_float_is_named(
    call: Callable[[Tensor], Tensor], kind: str, reason: str
) -> None:
    graph = captured(Call(lambda self, x: call(x)), VECTORS)
    assert reasons(graph)[kind] == reason


# what is known of ops and tensors


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "parameters"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 9, 9), 6 * 4 * 4 * 2 * 9, 6 * 2 * 9 + 6),
        (nn.Conv1d(4, 6, 3, bias=False), (4, 8), 6 * 6 * 4 * 3, 6 * 4 * 3),
        (nn.Conv3d(2, 3, 2), (2, 3, 3, 3), 3 * 8 * 2 * 8, 3 * 2 * 8 + 3),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 3, 3), 4 * 9 * 6 * 4, 4 * 6 * 4 + 6),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), 4 * 25 * 3 * 9, 4 * 3 * 9 + 6),
        (nn.Linear(6, 4), (5, 6), 5 * 6 * 4, 6 * 4 + 4),
        (nn.Linear(6, 4, bias=False), (6,), 6 * 4, 6 * 4),
    ],
    ids=["grouped strided conv", "conv1d", "conv3d", "transposed", "grouped transposed",
         "linear on tokens", "linear"],
)  # fmt: skip
def test_macs_and_parameters_of_one_layer(
    layer: nn.Module, shape: tuple[int, ...], macs: int, parameters: int
) -> None:
    graph = captured(nn.Sequential(layer), torch.randn(2, *shape))
    assert (graph.ops["0"].macs, graph.ops["0"].parameters) == (macs, parameters)
    assert graph.macs == macs


def test_macs_of_a_product_of_activations() -> None:
    graph = captured(Call(lambda self, x: x @ x.transpose(1, 2)), torch.randn(2, 3, 5))
    assert graph.ops["matmul"].macs == 3 * 5 * 3


def test_channels_are_axis_1_of_images_and_the_last_of_tokens() -> None:
    assert network("residual")[1].tensors["conv1"].channel_dim == 1
    assert network("residual")[1].tensors["fc"].channel_dim == 1
    assert network("tokens")[1].tensors["attn.qkv"].channel_dim == 2


def test_shapes_are_per_sample_and_say_where_the_batch_is() -> None:
    info = network("residual")[1].tensors["conv1"]
    assert (info.shape, info.batch_dim, info.batch_multiple) == ((4, 8, 8), 0, 1)
    info = network("seq first")[1].tensors["attn:linear"]
    assert (info.shape, info.batch_dim, info.batch_multiple) == ((5, 24), 1, 1)


def test_heads_merged_into_the_batch_axis_stay_with_their_sample() -> None:
    graph = network("seq first")[1]
    info = graph.tensors[graph.ops["attn:matmul"].reads[0]]
    assert (info.shape, info.batch_dim, info.batch_multiple) == ((2, 5, 4), 0, 2)


def test_two_batches_in_one_axis_cannot_be_cut_into_samples() -> None:
    info = network("twins")[1].tensors["cat"]
    assert (info.shape, info.batch_dim) == ((-1, 6), None)


def test_a_batch_by_batch_matrix_cannot_be_cut_into_samples() -> None:
    graph = captured(Call(lambda self, x: (x @ x.t()).relu()), VECTORS)
    info = graph.tensors["relu"]
    assert (info.shape, info.batch_dim, info.batch_multiple) == ((-1, -1), None, 0)


def test_one_row_more_than_samples_cannot_be_cut_into_samples() -> None:
    model = Call(lambda self, x: self.fc(torch.cat([x, x[:1]])), fc=nn.Linear(6, 4))
    info = captured(model, VECTORS).tensors["cat"]
    assert (info.batch_dim, info.batch_multiple) == (None, 0)


def test_the_range_comes_from_the_root_through_ops_that_only_move_values() -> None:
    graph = network("residual")[1]
    assert graph.operands["fc/input"].tensor == "relu:relu.2"
    assert graph.tensors["flatten"].root == "relu:relu.2"
    assert graph.tensors["relu:relu.2"].consumers == ("fc/input",)
    assert graph.observed == ("x", "relu:relu", "relu:relu.1", "conv3", "relu:relu.2")


def test_a_part_of_a_split_shares_the_range_of_the_whole() -> None:
    def forward(self: Call, x: Tensor) -> object:
        a, b = self.fc(x).chunk(2, 1)
        return a @ b.transpose(0, 1)

    graph = captured(Call(forward, fc=nn.Linear(6, 4)), VECTORS)
    assert {o.tensor for o in graph.ops["matmul"].operands} == {"fc"}


def test_a_concatenation_has_a_range_of_its_own() -> None:
    model = Call(lambda self, x: self.fc(torch.cat([x, x.exp()], 1)), fc=nn.Linear(12, 4))
    graph = captured(model, VECTORS)
    assert graph.operands["fc/input"].tensor == "cat"
    assert graph.ops["cat"].passthrough


def test_the_later_product_is_the_one_an_add_takes_unrounded() -> None:
    graph = network("residual")[1]
    fused = {o.name: o.after_matmul for o in graph.ops["add"].operands}
    assert fused == {"add/0": True, "add/1": False}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: x.relu(), True),
        (lambda x: x.softmax(1), True),
        (lambda x: x.relu().reshape(-1, 3, 2), True),
        (lambda x: F.hardtanh(x, 0.0, 6.0), True),
        (lambda x: x.clamp(min=0), True),
        (lambda x: x.relu() + x.exp(), True),
        (lambda x: x.relu() * 2, True),
        (lambda x: F.pad(x.relu(), (1, 1)), True),
        (lambda x: x, False),
        (lambda x: F.gelu(x), False),
        (lambda x: F.hardtanh(x), False),
        (lambda x: x.relu() * -1, False),
        (lambda x: x.relu() + -3, False),
        (lambda x: torch.add(x.relu(), x.exp(), alpha=-1), False),
        (lambda x: F.pad(x.relu(), (1, 1), value=-1), False),
    ],
    ids=["relu", "softmax", "moved", "relu6", "clamp", "sum", "product", "padding", "input",
         "gelu", "hardtanh", "negated", "shifted", "difference", "negative padding"],
)  # fmt: skip
def test_a_tensor_is_known_to_be_nonnegative(
    call: Callable[[Tensor], Tensor], expected: bool
) -> None:
    graph = captured(Call(lambda self, x: call(x)), VECTORS)
    assert graph.tensors[graph.outputs[0]].nonnegative is expected


def test_values_of_unknown_number_have_no_cost_and_an_open_shape() -> None:
    graph = captured(Call(lambda self, x: x[x > 0].exp()), VECTORS)
    assert graph.tensors["exp"].shape == (-1,)
    assert graph.macs == 0


class _Token(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 6))
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + self.token.expand(x.shape[0], -1)
        return y


def test_a_stored_token_spread_over_the_batch_is_observed_where_it_is_spread() -> None:
    graph = captured(_Token(), VECTORS)
    assert [o.tensor for o in graph.operands.values() if o.op == "add"] == ["linear", "expand"]
    assert graph.tensors["expand"].batch_dim == 0


def test_a_grouped_transposed_convolution_is_float_for_that_reason() -> None:
    model = made(nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2)))
    graph = capture(model, batch(torch.randn(2, 4, 5, 5)))
    assert graph.ops["0"].reason == "grouped transposed convolution has no int8 arithmetic"
