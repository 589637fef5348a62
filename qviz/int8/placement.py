"""Where an integer program runs, and in which float type whatever is not int8 runs.

What is refused, and what is said when it does not work; moving.py rewrites the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from qviz.errors import DeviceError, InputError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ANOTHER = "Run it on the CPU, or on a machine whose GPU this PyTorch can use"


@dataclass(frozen=True)
class Place:
    """A device and a float type."""

    device: torch.device
    dtype: torch.dtype


HOME = Place(torch.device("cpu"), torch.float32)


def check_place(place: Place) -> None:
    """Refuse a place where the program cannot run.

    Raises:
        InputError: another float type.
        DeviceError: a GPU that is too old, or no Triton.
    """
    if place.dtype not in FLOATS:
        names = " or ".join(str(t).removeprefix("torch.") for t in FLOATS)
        raise InputError(
            str(place.dtype).removeprefix("torch."),
            "the float ops of an int8 program do not run in it",
            f"Use {names}",
        )
    if place.device.type == "cuda":
        from qviz.int8.cuda import registry

        registry.uses_triton(place.device)


def asked(fn: Callable[[Tensor], Tensor], now: Place) -> Place:
    """Where ``fn``, which moves or converts a tensor, would bring a program that is ``now``.

    Raises:
        InputError: to another float type than the program can run in.
        DeviceError: to a GPU that is not there, is too old, or for which Triton is missing.
    """
    try:
        probe = fn(torch.zeros((), dtype=now.dtype, device=now.device))
    except (AssertionError, RuntimeError) as failure:
        if torch.cuda.is_available():
            raise
        built = torch.backends.cuda.is_built()
        reason = (
            "PyTorch finds no GPU that it can use"
            if built
            else "this PyTorch is built without CUDA"
        )
        raise DeviceError("CUDA", reason, ANOTHER) from failure
    place = Place(probe.device, probe.dtype)
    if place != now:
        check_place(place)
    return place


@contextmanager
def reported() -> Iterator[None]:
    """Say in one line that the GPU's memory is full.

    Raises:
        DeviceError: it is.
    """
    try:
        yield
    except torch.OutOfMemoryError as failure:
        raise DeviceError(
            "CUDA", "the GPU is out of memory", "Give smaller batches, or free some of its memory"
        ) from failure


def check_inputs(values: Iterable[Tensor], place: Place) -> None:
    """Refuse inputs that lie on another device than the program.

    Raises:
        DeviceError: one does.
    """
    for value in values:
        if value.device.type != place.device.type:
            raise DeviceError(
                "input",
                f"it lies on {value.device.type}, the model on {place.device.type}",
                f"Move it: x.to({place.device.type!r})",
            )
