"""The integer matrix product that int8 hardware computes, and what it does with zero points.

Wu et al. 2020 (arXiv 2004.09602), equations 9-11: codes are multiplied and summed in int32, and
one multiplication at the end turns the sum into a real number. This is the plain statement of what
every kernel in ``qviz.int8`` must agree with; it is not one of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qviz.affine import QuantParams, kept_axis, spread
from qviz.errors import RangeError, ShapeError


def fold_zero_point(
    wq: Tensor, x_params: QuantParams, w_params: QuantParams, bias: Tensor | None
) -> Tensor:
    """The bias that absorbs the zero point of affine activations (eq. 11, term 2; offline).

    bias' = bias - s_x * s_w * z_x * sum_k wq[k, :], so that the integer product needs no
    correction at run time.

    Args:
        wq: codes, [K, N].
        x_params: per tensor.
        w_params: zero point 0, per tensor or axis 1.
        bias: [N] or None for 0.

    Returns:
        [N], dtype of ``bias`` (float32 for None); computed in float64, rounded once.

    Raises:
        RangeError: the weights have a zero point (their cross term depends on the input).
        ShapeError: scales that vary along k, or along the rows of affine activations.
    """
    _check_weights(wq, w_params)
    if x_params.axis is not None:
        raise ShapeError(
            "activation scales", "vary from row to row", "Use one scale for affine activations"
        )
    sums = wq.to(torch.float64).sum(0)  # (K, N) -> (N,), exact
    step = x_params.scale.to(torch.float64) * w_params.scale.to(torch.float64)
    moved = step * (x_params.zero_point * sums)
    if bias is None:
        return (-moved).to(torch.float32)
    return (bias.to(torch.float64) - moved).to(bias.dtype)


def integer_matmul(
    xq: Tensor,
    wq: Tensor,
    x_params: QuantParams,
    w_params: QuantParams,
    bias: Tensor | None = None,
) -> Tensor:
    """Matrix product of codes: exact int32 accumulation, one rescaling at the end (eq. 10, 11).

    Agrees with the product of the fake-quantized operands (eq. 9), which rounds in every addition
    where this rounds only in the epilogue.

    Args:
        xq: codes, [..., K].
        wq: codes, [K, N] (a linear layer's weight, transposed).
        x_params: per tensor; per row (axis 0 of a 2-d ``xq``) where the zero points are 0.
        w_params: zero point 0, per tensor or axis 1.
        bias: [N]; a float64 bias asks for a float64 epilogue.

    Returns:
        [..., N] float32, or float64 where ``bias`` is.

    Raises:
        RangeError: the weights have a zero point.
        ShapeError: sizes that do not fit, scales that vary along k, or so many terms that int32
            could overflow.
    """
    _check_weights(wq, w_params)
    if xq.dim() == 0 or xq.shape[-1] != wq.shape[0]:
        raise ShapeError(
            "integer product",
            f"sizes {tuple(xq.shape)} and {tuple(wq.shape)} do not fit",
            "Pass [..., K] and [K, N]",
        )
    if x_params.axis is not None and kept_axis(xq, x_params.axis) == xq.dim() - 1:
        raise ShapeError(
            "activation scales",
            "vary along the summed axis",
            "Use one scale per tensor or per row",
        )
    # Doubles hold every int32 exactly, and a double product runs on BLAS where an int32 one crawls.
    acc = xq.to(torch.float64) @ wq.to(torch.float64)
    _check_accumulator(xq.shape[-1], x_params, w_params)
    dtype = torch.float64 if bias is not None and bias.dtype == torch.float64 else torch.float32
    x_scale = spread(x_params.scale, acc, x_params.axis).to(dtype)
    y = acc.to(torch.int32).to(dtype) * (x_scale * w_params.scale.to(dtype))
    if bool((x_params.zero_point != 0).any()):
        return y + fold_zero_point(wq, x_params, w_params, bias)
    return y if bias is None else y + bias


def _check_weights(wq: Tensor, w_params: QuantParams) -> None:
    if bool((w_params.zero_point != 0).any()):
        raise RangeError(
            "weights",
            "have a zero point, whose cross term would be computed for every input",
            "Quantize weights symmetrically (weight_params)",
        )
    if wq.dim() != 2 or w_params.axis not in (None, 1, -1):
        raise ShapeError(
            "weights",
            f"{wq.dim()} dimensions with scales along axis {w_params.axis}",
            "Pass [K, N] with one scale, or one per column (axis=1)",
        )


def _check_accumulator(terms: int, x_params: QuantParams, w_params: QuantParams) -> None:
    largest = [max(abs(p.quant_min), abs(p.quant_max)) for p in (x_params, w_params)]
    if terms * largest[0] * largest[1] >= 2**31:
        raise ShapeError(
            "integer product",
            f"{terms} terms can overflow an int32 accumulator",
            "Split the product or use fewer bits",
        )
