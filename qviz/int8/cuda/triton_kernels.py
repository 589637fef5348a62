"""Which Triton kernel takes which call, and what it costs the others to be taken at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qviz.int8.cuda import conv, depthwise, gemm, patches, weights
from qviz.int8.cuda.batched import batched
from qviz.int8.cuda.calls import Convolution, Linear, Matmul, rows_of, settled
from qviz.int8.cuda.registry import OTHER, Kernel
from qviz.int8.operands import Geometry

#: Largest number of elements of one image, or of one row of pixels: offsets inside are 32 bits.
MOST = 2**31 - 1


# -- linear ---------------------------------------------------------------------------------------


def _gemm(call: Linear) -> Tensor:
    packed, scale, bias = call.weight
    rows = weights.rows(packed)
    out = call.empty()
    return gemm.gemm(call.x, call.x_scale, rows, scale, bias, call.then, call.residual, out)


def _gemm_padded(call: Linear) -> Tensor:
    more = weights.aligned(call.x.shape[1]) - call.x.shape[1]
    return _gemm(call._replace(x=F.pad(call.x, (0, more)).contiguous()))


LINEAR = (
    Kernel("triton gemm", "triton", lambda call: weights.unaligned(call.x), _gemm),
    Kernel("triton gemm of a padded copy", "triton", lambda call: None, _gemm_padded),
)

# -- convolutions ---------------------------------------------------------------------------------


def _flat(call: Convolution) -> Convolution:
    """A 1d convolution as a 2d one of height 1."""
    how = call.how
    residual = None if call.residual is None else call.residual.unsqueeze(2)
    return call._replace(
        x=call.x.unsqueeze(2),
        how=Geometry((1, *how.stride), (0, *how.padding), (1, *how.dilation), how.groups),
        residual=residual,
    )


def _sides(call: Convolution) -> tuple[int, int]:
    """R and S of the kernel; R is 1 for a 1d convolution."""
    kernel = call.kernel
    return (kernel[0], kernel[1]) if len(kernel) == 2 else (1, kernel[0])


def _windows(call: Convolution) -> str | None:
    if len(call.kernel) > 2:
        return f"the convolution is {len(call.kernel)}d"
    if call.x[:1].numel() > MOST:
        return f"an image has more than {MOST} elements"
    return None


def _pointwise_declines(call: Convolution) -> str | None:
    how = call.how
    if how.groups > 1 or any(k != 1 for k in call.kernel):
        return OTHER
    if any(s != 1 for s in how.stride) or any(how.padding):
        return "the 1x1 kernel strides or is padded"
    if call.x.shape[1] % weights.WORD:
        return f"{call.x.shape[1]} channels are not a multiple of {weights.WORD}"
    return None


def _depthwise_declines(call: Convolution) -> str | None:
    if call.weight.packed.weight.shape[1] != 1 or call.how.groups == 1:
        return OTHER
    return _windows(call)


def _implicit_declines(call: Convolution) -> str | None:
    per_group = call.x.shape[1] // call.how.groups
    if not conv.takes_blocks(per_group):
        return (
            f"{per_group} channels per group are fewer than {conv.FEWEST} "
            f"or no multiple of {weights.WORD}"
        )
    return _windows(call)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _linear_of(call: Convolution, x: Tensor) -> Linear:
    residual = None if call.residual is None else rows_of(call.residual).contiguous()
    return Linear(x, call.x_scale, call.weight, call.then, residual, call.dtype)


def _as_image(call: Convolution, rows: Tensor) -> Tensor:
    """[B * out, N] as an output of the convolution."""
    batch, width, *sizes = call.shape
    return settled(rows.view(batch, *sizes, width).movedim(-1, 1), call.x)


def _pointwise(call: Convolution) -> Tensor:
    return _as_image(call, _gemm(_linear_of(call, rows_of(call.x).contiguous())))


def _direct(call: Convolution, deep: bool) -> Tensor:
    """The implicit product or the depthwise kernel, 1d calls as 2d ones."""
    shape, kernel, original = call.shape, _sides(call), call.x
    packed, scale, bias = call.weight
    if len(shape) == 3:
        shape, call = (*shape[:2], 1, shape[2]), _flat(call)
    out = call.x.new_empty((shape[0], *shape[2:], shape[1]), dtype=call.dtype).movedim(-1, 1)
    residual = call.residual if call.residual is None else _channels_last(call.residual)
    kernel_of, form = (
        (depthwise.depthwise, weights.taps) if deep else (conv.convolution, weights.rows)
    )
    kernel_of(
        _channels_last(call.x), call.x_scale, form(packed), kernel, scale, bias, call.how,
        call.then, residual, out,
    )  # fmt: skip
    return settled(out.squeeze(2) if original.dim() == 3 else out, original)


def _patched(call: Convolution) -> Tensor:
    """Windows written down, one product per group."""
    groups = call.how.groups
    packed, scale, bias = call.weight
    rows = weights.rows(packed)
    width = rows.shape[0] // groups
    residual = None if call.residual is None else rows_of(call.residual)
    made, done = [], 0
    for part in patches.in_parts(call.x, call.kernel, call.how):
        found = patches.patches(part, call.kernel, call.how)
        found = F.pad(found, (0, rows.shape[1] - found.shape[2]))
        columns = []
        for g, windows in enumerate(found):
            mine = slice(g * width, (g + 1) * width)
            columns.append(
                gemm.gemm(
                    windows, call.x_scale, rows[mine], scale[mine],
                    None if bias is None else bias[mine], call.then,
                    None if residual is None
                    else residual[done : done + len(windows), mine].contiguous(),
                    windows.new_empty((len(windows), width), dtype=call.dtype),
                )
            )  # fmt: skip
        made.append(torch.cat(columns, 1))
        done += found.shape[1]
    return _as_image(call, torch.cat(made))


CONV = (
    Kernel("triton depthwise", "triton", _depthwise_declines, lambda call: _direct(call, True)),
    Kernel("triton gemm", "triton", _pointwise_declines, _pointwise),
    Kernel("triton implicit gemm", "triton", _implicit_declines, lambda call: _direct(call, False)),
    Kernel("triton gathering gemm", "triton", _windows, lambda call: _direct(call, False)),
    Kernel("triton gemm of written windows", "triton", lambda call: None, _patched),
)

# -- matmul ---------------------------------------------------------------------------------------


def _two_batch_dims(x: Tensor) -> Tensor | None:
    """[*batch, m, k] as [B, H, m, k] without a copy; None if its strides forbid it."""
    while x.dim() < 4:
        x = x.unsqueeze(0)
    try:
        return x.view(-1, *x.shape[-3:])
    except RuntimeError:
        return None


def _strides_decline(call: Matmul) -> str | None:
    for name, x in (("first", call.a), ("second", call.b)):
        if _two_batch_dims(x) is None:
            return f"the {name} factor's batch dimensions cannot be read as two"
        if x.stride(-1) != 1 and x.stride(-2) != 1:
            return f"the {name} factor is contiguous along neither of its last dimensions"
        row = x.stride(-2) if x.stride(-1) == 1 else x.stride(-1)
        if row % weights.ALIGNED:
            return (
                f"the {name} factor's rows lie {row} bytes apart, no multiple of {weights.ALIGNED}"
            )
    return None


def _batched(call: Matmul) -> Tensor:
    a, b = (
        x if x is not None else given.reshape(-1, *given.shape[-3:])
        for given, x in ((x, _two_batch_dims(x)) for x in (call.a, call.b))
    )
    out = call.a.new_empty((*a.shape[:-1], b.shape[-1]), dtype=call.dtype)
    return batched(a, b, call.scale, call.then, out).view(call.shape)


MATMUL = (
    Kernel("triton batched gemm", "triton", _strides_decline, _batched),
    Kernel("triton batched gemm, byte by byte", "triton", lambda call: None, _batched),
)

TABLE = {"linear": LINEAR, "conv": CONV, "matmul": MATMUL}
