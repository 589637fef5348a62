"""Grids, codes and round trips, against torch, ONNX Runtime and the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qviz.affine import (
    Grid,
    QuantParams,
    affine_params,
    dequantize,
    fake_quantize,
    quantize,
    range_params,
    symmetric_params,
    weight_params,
)
from qviz.errors import NotFiniteError, RangeError, ShapeError
from qviz.matmul import fold_zero_point, integer_matmul

ALL_BITS = tuple(range(2, 9))
few = settings(max_examples=40, deadline=None)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- grids -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "limits"),
    [
        (Grid(8), (-128, 127)),
        (Grid(8, narrow=True), (-127, 127)),
        (Grid(8, symmetric=False), (0, 255)),
        (Grid(4), (-8, 7)),
        (Grid(2, narrow=True), (-1, 1)),
        (Grid(2, symmetric=False), (0, 3)),
    ],
)
def test_a_grid_has_these_integer_limits(grid: Grid, limits: tuple[int, int]) -> None:
    assert (grid.quant_min, grid.quant_max) == limits


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 16])
def test_bits_outside_two_to_eight_are_refused(bits: int) -> None:
    with pytest.raises(RangeError) as caught:
        Grid(bits)
    assert str(caught.value) == f"{bits} bits: no such integer grid. Use 2 to 8 bits."


def test_an_unsigned_grid_cannot_be_narrow() -> None:
    with pytest.raises(RangeError) as caught:
        Grid(8, symmetric=False, narrow=True)
    assert str(caught.value) == (
        "narrow grid: only symmetric grids can be narrow. Set symmetric=True or narrow=False."
    )


# --- ranges ----------------------------------------------------------------------------------


def test_scale_is_one_step_and_amax_is_the_largest_code() -> None:
    params = symmetric_params(12.7, Grid(8))
    assert params.scale.item() == pytest.approx(0.1)
    assert int(quantize(torch.tensor(12.7), params)) == 127


@given(
    lo=st.floats(-1e6, 1e6, width=32),
    hi=st.floats(-1e6, 1e6, width=32),
    bits=st.sampled_from(ALL_BITS),
)
@few
def test_real_zero_is_exactly_one_code(lo: float, hi: float, bits: int) -> None:
    params = affine_params(min(lo, hi), max(lo, hi), Grid(bits, symmetric=False))
    code = quantize(torch.zeros(()), params)
    assert int(code) == int(params.zero_point)
    assert dequantize(code, params).item() == 0.0


@given(lo=st.floats(-1e6, 0, width=32), hi=st.floats(0, 1e6, width=32))
@few
def test_an_affine_range_covers_what_was_asked_but_for_half_a_step(lo: float, hi: float) -> None:
    params = affine_params(lo, hi, Grid(8, symmetric=False))
    half = 0.501 * params.scale.item()
    assert params.low.item() <= lo + half
    assert params.high.item() >= hi - half


def test_an_affine_range_away_from_zero_is_widened_to_hold_it() -> None:
    above, below = (
        affine_params(a, b, Grid(8, symmetric=False)) for a, b in ((2, 5.1), (-5.1, -2))
    )
    assert (int(above.zero_point), int(below.zero_point)) == (0, 255)
    assert above.scale.item() == below.scale.item() == pytest.approx(0.02)


def test_any_range_fits_any_grid() -> None:
    symmetric = range_params(-3.0, 1.0, Grid(8))
    affine = range_params(-3.0, 1.0, Grid(8, symmetric=False))
    assert symmetric.scale.item() == pytest.approx(3 / 127)
    assert affine.scale.item() == pytest.approx(4 / 255)


@pytest.mark.parametrize("amax", [0.0, 1e-45, 1e-38, 1e-37])
def test_a_step_too_small_to_invert_becomes_one(amax: float) -> None:
    for params in (symmetric_params(amax, Grid()), affine_params(0, amax, Grid(symmetric=False))):
        assert params.scale.item() == 1.0
        back = fake_quantize(torch.tensor([0.0, amax, -amax]), params)
        assert torch.equal(back, torch.zeros(3))


@given(amax=st.floats(0, 2.0**127, width=32), bits=st.sampled_from(ALL_BITS))
@few
def test_no_amax_makes_a_value_that_is_not_finite(amax: float, bits: int) -> None:
    params = symmetric_params(amax, Grid(bits))
    x = torch.tensor([0.0, amax, -amax, amax / 2])
    back = fake_quantize(x, params)
    assert bool(params.scale.reciprocal().isfinite())
    assert back[0] == 0
    assert bool(back.isfinite().all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_amax_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(NotFiniteError) as caught:
        symmetric_params(bad, Grid())
    assert str(caught.value) == (
        "amax: is NaN or infinite. Look for NaN or Inf in the weights or the calibration data."
    )


def test_a_weight_that_is_not_finite_is_named() -> None:
    w = normal(4, 3)
    w[2, 1] = float("nan")
    with pytest.raises(NotFiniteError) as caught:
        weight_params(w, axis=0)
    assert str(caught.value) == (
        "weight: has NaN or infinite entries. "
        "Look for NaN or Inf in the weights or the calibration data."
    )


def test_a_negative_amax_is_refused() -> None:
    with pytest.raises(RangeError) as caught:
        symmetric_params(-2.0, Grid())
    assert str(caught.value) == "amax: is negative (-2). Pass a limit of |x|."


def test_a_range_upside_down_is_refused() -> None:
    for grid in (Grid(), Grid(symmetric=False)):
        with pytest.raises(RangeError) as caught:
            range_params(1.0, -1.0, grid)
        assert str(caught.value) == ("range: its lower end is above its upper end. Swap lo and hi.")


def test_each_kind_of_range_refuses_the_other_kind_of_grid() -> None:
    with pytest.raises(RangeError) as symmetric:
        symmetric_params(1.0, Grid(symmetric=False))
    with pytest.raises(RangeError) as affine:
        affine_params(-1.0, 1.0, Grid())
    assert str(symmetric.value) == (
        "symmetric range: the grid is unsigned. Use affine_params or Grid(symmetric=True)."
    )
    assert str(affine.value) == (
        "affine range: the grid has no zero point. Use Grid(symmetric=False)."
    )


# --- weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", ALL_BITS)
def test_weights_use_the_whole_narrow_grid_of_every_channel(bits: int) -> None:
    w = normal(6, 3, 3, 3) * torch.logspace(-3, 3, 6).reshape(-1, 1, 1, 1)
    codes = quantize(w, weight_params(w, bits, axis=0))
    top = 2 ** (bits - 1) - 1
    assert codes.abs().amax((1, 2, 3)).tolist() == [top] * 6


def test_a_channel_of_zeros_stays_zero_among_others() -> None:
    w = normal(3, 4)
    w[1] = 0
    back = fake_quantize(w, weight_params(w, axis=0))
    assert torch.equal(back[1], torch.zeros(4))
    assert bool(back.isfinite().all())


def test_an_empty_weight_is_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        weight_params(torch.empty(0, 4))
    assert str(caught.value) == "weight: is empty. Leave this op in float."


# --- codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_in_range_survive_a_round_trip(bits: int, symmetric: bool) -> None:
    grid = Grid(bits, symmetric=symmetric)
    params = range_params(-0.7, 1.3, grid)
    codes = torch.arange(grid.quant_min, grid.quant_max + 1).to(params.dtype)
    assert torch.equal(quantize(dequantize(codes, params), params), codes)


def test_ties_go_to_the_even_code() -> None:
    params = symmetric_params(127.0, Grid())
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    assert quantize(x, params).tolist() == [0, 2, 2, 0, -2, -2]


@given(
    seed=st.integers(0, 2**16),
    spread=st.floats(1e-3, 1e3),
    bits=st.sampled_from(ALL_BITS),
    symmetric=st.booleans(),
)
@few
def test_per_tensor_round_trip_is_that_of_torch(
    seed: int, spread: float, bits: int, symmetric: bool
) -> None:
    x = normal(257, seed=seed) * spread
    params = range_params(-spread, 2 * spread, Grid(bits, symmetric=symmetric))
    golden = torch.fake_quantize_per_tensor_affine(
        x, params.scale, params.zero_point, params.quant_min, params.quant_max
    )
    assert torch.equal(fake_quantize(x, params), golden)
    assert torch.equal(dequantize(quantize(x, params), params), golden)


@given(seed=st.integers(0, 2**16), bits=st.sampled_from(ALL_BITS), axis=st.integers(-3, 2))
@few
def test_per_channel_round_trip_is_that_of_torch(seed: int, bits: int, axis: int) -> None:
    w = normal(5, 4, 6, seed=seed)
    params = weight_params(w, bits, axis)
    golden = torch.fake_quantize_per_channel_affine(
        w, params.scale, params.zero_point, axis % 3, params.quant_min, params.quant_max
    )
    assert torch.equal(fake_quantize(w, params), golden)
    assert torch.equal(dequantize(quantize(w, params), params), golden)


def test_affine_per_channel_round_trip_is_that_of_torch() -> None:
    x = normal(4, 50)
    grid = Grid(8, symmetric=False)
    params = affine_params(x.amin(1), x.amax(1), grid, axis=0)
    golden = torch.fake_quantize_per_channel_affine(
        x, params.scale, params.zero_point, 0, params.quant_min, params.quant_max
    )
    assert torch.equal(fake_quantize(x, params), golden)
    assert torch.equal(dequantize(quantize(x, params), params), golden)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_round_trip_as_in_torch(dtype: torch.dtype) -> None:
    x = normal(1000).to(dtype)
    params = symmetric_params(2.0, Grid())
    golden = torch.fake_quantize_per_tensor_affine(x, params.scale, params.zero_point, -128, 127)
    back = fake_quantize(x, params)
    assert back.dtype == dtype
    assert torch.equal(back, golden)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_codes_are_those_of_torch_quantize_per_tensor() -> None:
    x = normal(2000) * 3
    for params, dtype in (
        (symmetric_params(4.0, Grid()), torch.qint8),
        (affine_params(-2.0, 5.0, Grid(symmetric=False)), torch.quint8),
    ):
        golden = torch.quantize_per_tensor(
            x, params.scale.item(), int(params.zero_point), dtype
        ).int_repr()
        assert torch.equal(quantize(x, params), golden)


@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_onnx_runtime(symmetric: bool) -> None:
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    # A power of two makes dividing (ONNX) and multiplying by the inverse (here) the same number.
    params = range_params(-4.0, 3.96875, Grid(8, symmetric=symmetric))
    params = QuantParams(
        torch.tensor(1 / 32), params.zero_point, params.quant_min, params.quant_max
    )
    x = normal(500) * 3
    zero = params.zero_point.to(params.dtype).numpy()
    kind = onnx.TensorProto.INT8 if symmetric else onnx.TensorProto.UINT8
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"])],
        "quantize",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [500])],
        [onnx.helper.make_tensor_value_info("q", kind, [500])],
        [
            onnx.numpy_helper.from_array(params.scale.numpy(), "scale"),
            onnx.numpy_helper.from_array(zero, "zero"),
        ],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (golden,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(quantize(x, params).numpy(), golden)


@pytest.mark.parametrize("axis", [None, 0])
def test_values_far_outside_saturate_at_their_own_end(axis: int | None) -> None:
    # torch's per-channel kernel sends all of these to the lowest code.
    x = torch.tensor([[3e19, 1e30, 3.4e38, float("inf"), -3e19, -1e30, -3.4e38, float("-inf")]])
    params = symmetric_params(1.0 if axis is None else torch.ones(1), Grid(), axis)
    assert quantize(x, params).tolist() == [[127] * 4 + [-128] * 4]
    assert fake_quantize(x, params)[0, :4].tolist() == [1.0] * 4


def test_nan_stays_visible_in_floats_and_has_no_code() -> None:
    params = symmetric_params(1.0, Grid())
    x = torch.tensor([0.5, float("nan")])
    assert fake_quantize(x, params).isnan().tolist() == [False, True]
    with pytest.raises(NotFiniteError) as caught:
        quantize(x, params)
    assert str(caught.value) == (
        "tensor: holds NaN, which has no integer code. Find the op that makes it."
    )


def test_memory_format_and_input_are_left_alone() -> None:
    x = normal(2, 8, 4, 4).to(memory_format=torch.channels_last)
    before = x.clone()
    params = symmetric_params(2.0, Grid())
    for y in (fake_quantize(x, params), quantize(x, params)):
        assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


def test_an_empty_tensor_has_no_codes() -> None:
    params = symmetric_params(1.0, Grid())
    assert quantize(torch.empty(0, 3), params).shape == (0, 3)
    assert fake_quantize(torch.empty(0, 3), params).shape == (0, 3)


def test_a_wrong_number_of_channels_is_named() -> None:
    params = weight_params(normal(4, 3), axis=0)
    with pytest.raises(ShapeError) as caught:
        fake_quantize(normal(5, 3), params)
    assert str(caught.value) == (
        "axis 0: 5 channels but 4 scales. Compute the parameters from a tensor of the same shape."
    )


def test_gradient_passes_where_the_value_is_on_the_grid_and_nowhere_else() -> None:
    x = torch.tensor([-3.0, -1.0, 0.2, 1.0, 3.0], requires_grad=True)
    params = symmetric_params(1.0, Grid())
    y = fake_quantize(x, params)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert torch.equal(y.detach(), fake_quantize(x.detach(), params))


# --- the integer product -----------------------------------------------------------------------


def _exact(params: QuantParams, exponent: int) -> QuantParams:
    """The same grid with a power of two for a step: every product below is then exact."""
    scale = torch.full_like(params.scale, 2.0**exponent)
    if params.axis is not None:
        scale = scale * 2.0 ** (torch.arange(scale.numel()) % 3)
    return QuantParams(scale, params.zero_point, params.quant_min, params.quant_max, params.axis)


@given(
    seed=st.integers(0, 2**16),
    bits=st.sampled_from(ALL_BITS),
    symmetric=st.booleans(),
    axis=st.sampled_from([None, 1]),
    with_bias=st.booleans(),
)
@few
def test_integer_product_is_exactly_the_fake_quantized_one(
    seed: int, bits: int, symmetric: bool, axis: int | None, with_bias: bool
) -> None:
    x, w = normal(3, 4, 17, seed=seed), normal(17, 6, seed=seed + 1)
    x_params = _exact(range_params(-1.1, 2.3, Grid(bits, symmetric=symmetric)), -5)
    w_params = _exact(weight_params(w, bits, axis), -6)
    bias = torch.round(normal(6) * 8).to(torch.float64) / 8 if with_bias else None
    got = integer_matmul(quantize(x, x_params), quantize(w, w_params), x_params, w_params, bias)
    simulated = fake_quantize(x, x_params).double() @ fake_quantize(w, w_params).double()
    wanted = simulated if bias is None else simulated + bias
    assert torch.equal(got.double(), wanted)


def test_integer_product_agrees_to_float_rounding_with_ordinary_scales() -> None:
    x, w, bias = normal(8, 300), normal(300, 5, seed=1), normal(5).double()
    x_params = affine_params(-2.0, 3.0, Grid(symmetric=False))
    w_params = weight_params(w, axis=1)
    got = integer_matmul(quantize(x, x_params), quantize(w, w_params), x_params, w_params, bias)
    wanted = fake_quantize(x, x_params).double() @ fake_quantize(w, w_params).double() + bias
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-5)


def test_activations_may_have_one_scale_per_row() -> None:
    x, w = normal(4, 9), normal(9, 5, seed=1)
    x_params = _exact(symmetric_params(x.abs().amax(1), Grid(), axis=0), -6)
    w_params = _exact(weight_params(w, axis=1), -6)
    got = integer_matmul(quantize(x, x_params), quantize(w, w_params), x_params, w_params)
    assert torch.equal(got, fake_quantize(x, x_params) @ fake_quantize(w, w_params))


def test_the_offline_cross_term_is_the_whole_correction() -> None:
    wq = torch.tensor([[1, -2], [3, 4]], dtype=torch.int8)
    x_params = QuantParams(torch.tensor(0.5), torch.tensor(10, dtype=torch.int32), 0, 255)
    w_params = QuantParams(torch.tensor(0.25), torch.tensor(0, dtype=torch.int32), -127, 127)
    folded = fold_zero_point(wq, x_params, w_params, torch.tensor([1.0, 2.0]))
    assert folded.tolist() == [1.0 - 0.125 * 10 * 4, 2.0 - 0.125 * 10 * 2]
    assert fold_zero_point(wq, x_params, w_params, None).tolist() == [-5.0, -2.5]


def test_weights_with_a_zero_point_are_refused() -> None:
    params = QuantParams(torch.tensor(1.0), torch.tensor(3, dtype=torch.int32), 0, 255)
    codes = torch.zeros(2, 2, dtype=torch.uint8)
    with pytest.raises(RangeError) as caught:
        integer_matmul(codes, codes, symmetric_params(1.0, Grid()), params)
    assert str(caught.value) == (
        "weights: have a zero point, whose cross term would be computed for every input. "
        "Quantize weights symmetrically (weight_params)."
    )


def test_scales_that_vary_along_the_sum_are_refused() -> None:
    w = normal(3, 3)
    codes = quantize(w, weight_params(w, axis=0))
    with pytest.raises(ShapeError) as caught:
        integer_matmul(codes, codes, symmetric_params(1.0, Grid()), weight_params(w, axis=0))
    assert str(caught.value) == (
        "weights: 2 dimensions with scales along axis 0. "
        "Pass [K, N] with one scale, or one per column (axis=1)."
    )


def test_a_sum_that_int32_cannot_hold_is_refused() -> None:
    params = symmetric_params(1.0, Grid())
    xq = torch.zeros(1, 2**17, dtype=torch.int8)
    with pytest.raises(ShapeError) as caught:
        integer_matmul(xq, xq.T, params, params)
    assert str(caught.value) == (
        "integer product: 131072 terms can overflow an int32 accumulator. "
        "Split the product or use fewer bits."
    )
