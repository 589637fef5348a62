"""What runs a checkpoint's integers: the CPU, and a CUDA GPU where there is one.

A backend runs single calls, for the comparison op by op, and the whole program, for the metric.
"""

from __future__ import annotations

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


def check_cuda() -> None:
    """Refuse a machine whose GPU cannot run the integers.

    Raises:
        DeviceError: there is none, it is too old, or Triton is not installed.
        InputError: the environment asks for kernels that are not there.
    """
    if not torch.backends.cuda.is_built():
        raise DeviceError("CUDA", "this PyTorch is built without CUDA", LEAVE_OUT)
    if not torch.cuda.is_available():
        raise DeviceError("CUDA", "PyTorch finds no GPU that it can use", LEAVE_OUT)
    from qviz.int8.cuda import registry

    registry.uses_triton(torch.device(CUDA, torch.cuda.current_device()))


def cuda_backend(folder: Path) -> Backend:
    """The GPU.

    Args:
        folder: of the checkpoint, which is read once more: one program per device.

    Raises:
        DeviceError: there is none, it is too old, out of memory, or lacks Triton.
    """
    check_cuda()
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
    """What was chosen for the shapes that ran, once per kernel and reason."""
    from qviz.int8.cuda import registry

    found = (
        Kernel(
            choice.kind,
            choice.kernel,
            "; ".join(f"no {name}: {why}" for name, why in choice.declined) or "the fastest",
        )
        for choice in registry.chosen()
    )
    return tuple(dict.fromkeys(found))


@contextmanager
def _memory() -> Iterator[None]:
    """Say in one line that the GPU's memory is full."""
    try:
        yield
    except torch.OutOfMemoryError as failure:
        raise DeviceError(
            "CUDA", "the GPU is out of memory", f"Free some of its memory. {LEAVE_OUT}"
        ) from failure
