"""What runs a checkpoint's integers: the CPU, and a CUDA GPU where there is one.

A backend runs single calls, for the comparison op by op, and the whole program, for the metric.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qviz.data import Batch
from qviz.errors import DeviceError
from qviz.int8.certificate import CUDA, Kernel
from qviz.int8.checkpoint import Checkpoint, load_checkpoint
from qviz.int8.parity import CPU, Call, call_here
from qviz.int8.selftest import capabilities

Device = Literal["cpu", "cuda"]
#: The first compute capability whose tensor cores Triton compiles int8 products for.
OLDEST = (8, 0)
LEAVE_OUT = "Verify on the CPU alone with --device cpu, or go on without the GPU with --fallback"


@dataclass(frozen=True, eq=False)
class Backend:
    """One way to run the integers.

    Attributes:
        name: ``cpu`` or ``cuda``.
        title: for a person.
        call: runs one call of the program.
        run: the whole program on a batch: its outputs, flat, on the CPU.
        kernels: which kernels it has chosen; asked after it has run.
    """

    name: str
    title: str
    call: Call
    run: Callable[[Batch], list[Any]]
    kernels: Callable[[], tuple[Kernel, ...]]


def cpu_backend(checkpoint: Checkpoint) -> Backend:
    """The CPU."""

    def kernels() -> tuple[Kernel, ...]:
        return tuple(Kernel(kind, c.backend, c.reason) for kind, c in capabilities().items())

    return Backend(CPU, "int8 on the CPU", call_here, checkpoint.run, kernels)


def cuda_problem() -> str:
    """Why this machine's GPU cannot run the integers; "" if it can."""
    if not torch.backends.cuda.is_built():
        return "this PyTorch is built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU that it can use"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        return (
            f"{torch.cuda.get_device_name()} is too old: its compute capability is "
            f"{_dotted(capability)}, the int8 kernels need {_dotted(OLDEST)}"
        )
    if importlib.util.find_spec("triton") is None:
        return "Triton, which compiles the int8 kernels, is not installed"
    return ""


def cuda_backend(folder: Path) -> Backend:
    """The GPU.

    Args:
        folder: of the checkpoint, which is read once more: one program per device.

    Raises:
        DeviceError: there is none, it is too old, out of memory, or lacks Triton.
    """
    problem = cuda_problem()
    if problem:
        raise DeviceError("CUDA", problem, LEAVE_OUT)
    with _memory():
        moved = load_checkpoint(folder).to(CUDA)
    return Backend(CUDA, "int8 on CUDA", _Elsewhere(CUDA), _run_on(moved, CUDA), _cuda_kernels)


def _run_on(moved: Checkpoint, device: str) -> Callable[[Batch], list[Any]]:
    def run(batch: Batch) -> list[Any]:
        there = replace(
            batch,
            args=tuple(x.to(device) for x in batch.args),
            kwargs={k: x.to(device) for k, x in batch.kwargs.items()},
        )
        with _memory():
            return [_to(value, CPU) for value in moved.run(there)]

    return run


class _Elsewhere:
    """Runs single calls on a device; what is stored in the program goes there once."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        stored = {
            id(value)
            for source, value in zip(node.args, args, strict=True)
            if isinstance(source, fx.Node) and source.op == "get_attr"
        }

        def there(value: Any) -> Any:  # noqa: ANN401 - an argument of a call
            return self._kept(value) if id(value) in stored else _to(value, self._device)

        with _memory():
            moved, named = pytree.tree_map(there, (args, dict(kwargs)))
            return call_here(node, moved, named).to(CPU)

    def _kept(self, value: Tensor) -> Tensor:
        # the tensor is held beside its copy, so that no other can get its id
        found = self._stored.get(id(value))
        if found is None:
            found = self._stored[id(value)] = (value, value.to(self._device))
        return found[1]


def _to(value: Any, device: str) -> Any:  # noqa: ANN401 - an argument or output of a program
    return value.to(device) if isinstance(value, Tensor) else value


def _cuda_kernels() -> tuple[Kernel, ...]:
    return ()


@contextmanager
def _memory() -> Iterator[None]:
    """Say in one line that the GPU's memory is full."""
    try:
        yield
    except torch.OutOfMemoryError as failure:
        raise DeviceError(
            "CUDA", "the GPU is out of memory", f"Free some of its memory. {LEAVE_OUT}"
        ) from failure


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
