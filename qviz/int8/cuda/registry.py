"""Which kernel answers a call: a short list per kind of op, the fastest first.

``chosen()`` says which kernels ran so far, and for each shape why no faster one::

    conv 8x3x224x224 by 64x3x7x7 ...: triton gathering gemm (no triton implicit gemm: 3 channels per
    group are fewer than 16 or no multiple of 4)

The environment variable QVIZ_INT8_CUDA says which kernels may be taken:

    auto     Triton's; PyTorch's own only for a shape that none of them takes. The default.
    triton   Triton's alone
    int_mm   PyTorch's alone: cuBLASLt's int8 product, several passes around it. Needs no Triton.
    exact    integers carried by float products; runs on every GPU

Without Triton, or on a GPU older than its int8 products, ``auto`` is an error and no slower kernel:
that is taken only when it is asked for.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qviz.errors import DeviceError, InputError
from qviz.int8.cuda import int_mm
from qviz.int8.cuda.calls import Convolution, Linear, Matmul

VARIABLE = "QVIZ_INT8_CUDA"
#: Value of the variable -> backends whose kernels may be taken.
ALLOWED = {
    "auto": ("triton", "int_mm", "exact"),
    "triton": ("triton",),
    "int_mm": ("int_mm", "exact"),
    "exact": ("exact",),
}
#: The first compute capability whose tensor cores Triton compiles int8 products for.
OLDEST = (8, 0)
CURE = f"Set {VARIABLE}=int_mm for PyTorch's own, slower kernels"
#: Choices kept; a server that sees more shapes than this chooses some of them again.
MOST_CHOICES = 4096

OTHER = ""

log = logging.getLogger(__name__)

Call = Linear | Convolution | Matmul


class Kernel(NamedTuple):
    """One way to answer a kind of call.

    Attributes:
        name: for a person.
        backend: ``triton``, ``int_mm`` or ``exact``.
        declines: why it does not take a call; None if it does, ``OTHER`` if it is for another sort
            of call and nobody would expect it.
        run: answers the call.
    """

    name: str
    backend: str
    declines: Callable[[Any], str | None]
    run: Callable[[Any], Tensor]


class Choice(NamedTuple):
    """What was chosen for the calls of one shape.

    Attributes:
        kind: ``linear``, ``conv`` or ``matmul``.
        shape: sizes and window.
        kernel: its name.
        backend: its backend.
        declined: the faster kernels, each with why it was not taken.
    """

    kind: str
    shape: str
    kernel: str
    backend: str
    declined: tuple[tuple[str, str], ...]


def _unaligned(call: Linear) -> str | None:
    if call.x.shape[0] < int_mm.FEWEST_ROWS:
        return f"M = {call.x.shape[0]} is below {int_mm.FEWEST_ROWS}"
    if call.x.shape[1] % int_mm.STEP or call.width % int_mm.STEP:
        return f"K = {call.x.shape[1]} and N = {call.width} are not both multiples of {int_mm.STEP}"
    return None


def _torch_kernels(run: Callable[..., Tensor], of: str) -> tuple[Kernel, ...]:
    return (
        Kernel(f"cuBLASLt{of}", "int_mm", lambda call: None, partial(run, product=int_mm.int_mm)),
        Kernel(f"float{of}", "exact", lambda call: None, partial(run, product=int_mm.carried)),
    )


#: What needs no Triton.
PLAIN: dict[str, tuple[Kernel, ...]] = {
    "linear": (
        Kernel("cuBLASLt", "int_mm", _unaligned, partial(int_mm.linear, product=int_mm.int_mm)),
        *_torch_kernels(int_mm.linear, " of padded copies"),
    ),
    "conv": _torch_kernels(int_mm.convolution, " of written windows"),
    "matmul": _torch_kernels(int_mm.matmul, ", matrix by matrix"),
}

_CHOSEN: dict[tuple[object, ...], tuple[Choice, Kernel]] = {}


@cache
def _tables() -> Mapping[str, tuple[Kernel, ...]]:
    from qviz.int8.cuda import triton_kernels

    return {kind: (*triton_kernels.TABLE[kind], *PLAIN[kind]) for kind in PLAIN}


@cache
def _check_device(device: torch.device) -> None:
    """Refuse a machine whose GPU or Python cannot run Triton's kernels.

    Raises:
        DeviceError: no Triton, or the GPU is too old.
    """
    if importlib.util.find_spec("triton") is None:
        raise DeviceError("CUDA", "Triton, which compiles the int8 kernels, is not installed", CURE)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST:
            name = torch.cuda.get_device_name(device)
            has, needs = (".".join(map(str, c)) for c in (capability, OLDEST))
            raise DeviceError(
                "CUDA",
                f"{name} is too old: its compute capability is {has}, the int8 kernels need "
                f"{needs}",
                CURE,
            )


def backend() -> str:
    """What the environment asks for.

    Raises:
        InputError: it asks for what is not there.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ALLOWED:
        raise InputError(f"{VARIABLE}={wanted}", "no such backend", f"Use {', '.join(ALLOWED)}")
    return wanted


def uses_triton(device: torch.device) -> bool:
    """Whether Triton's kernels are to be taken on a device.

    Raises:
        DeviceError: they are, and cannot be.
    """
    if "triton" not in ALLOWED[backend()]:
        return False
    _check_device(device)
    return True


def answer(kind: str, call: Call) -> Tensor:
    """Run a call with the first kernel that takes it.

    Raises:
        DeviceError: no Triton, or the GPU is too old for it.
        InputError: the environment asks for a backend that is not there.
    """
    key = (kind, os.environ.get(VARIABLE), *call.signature())
    found = _CHOSEN.get(key)
    if found is None:
        if len(_CHOSEN) >= MOST_CHOICES:
            _CHOSEN.clear()
        found = _CHOSEN[key] = _choose(kind, call)
    return found[1].run(call)


def _choose(kind: str, call: Call) -> tuple[Choice, Kernel]:
    table = _tables() if uses_triton(call[0].device) else PLAIN
    allowed = ALLOWED[backend()]
    declined: list[tuple[str, str]] = []
    for kernel in table[kind]:
        if kernel.backend not in allowed:
            continue
        reason = kernel.declines(call)
        if reason is None:
            choice = Choice(kind, str(call), kernel.name, kernel.backend, tuple(declined))
            log.info("%s", described(choice))
            return choice, kernel
        if reason != OTHER:
            declined.append((kernel.name, reason))
    raise AssertionError(f"the last kernel of {kind} takes everything")


def described(choice: Choice) -> str:
    """One line for a log."""
    why = "; ".join(f"no {name}: {reason}" for name, reason in choice.declined)
    return f"{choice.kind} {choice.shape}: {choice.kernel}" + (f" ({why})" if why else "")


def chosen() -> tuple[Choice, ...]:
    """What was chosen so far in this process, one per shape."""
    return tuple(dict.fromkeys(choice for choice, _ in _CHOSEN.values()))


def forget() -> None:
    """Choose again at the next call of every shape."""
    _CHOSEN.clear()
    _check_device.cache_clear()
