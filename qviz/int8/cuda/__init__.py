"""Integer execution on NVIDIA GPUs: the operators of ``qviz::`` for CUDA tensors.

* operators.py       what an operator was asked, shapes made regular
* registry.py        which kernel answers, and why no faster one
* triton_kernels.py  Triton's: products (gemm.py, conv.py, batched.py), depthwise.py, one pass over
                     memory (elementwise.py, pooling.py); all end in epilogue.py
* int_mm.py          PyTorch's own, slower; on a machine without Triton, if asked for by name
* tuning.py          tile sizes, measured once per shape and GPU and kept on disk

Nothing of it is imported before an operator meets a CUDA tensor; Triton not before it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch


def _lazy(name: str) -> Callable[..., Any]:
    """The operator called ``name``, imported at its first call."""
    found: list[Callable[..., Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the schema says
        if not found:
            found.append(getattr(importlib.import_module("qviz.int8.cuda.operators"), name))
        return found[0](*args, **kwargs)

    return call


def register(library: torch.library.Library, *names: str) -> None:
    """Register operators for CUDA tensors."""
    for name in names:
        library.impl(name, _lazy(name), "CUDA")
