"""Where the other tests' helpers lie, and how outputs are compared."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TESTS = Path(__file__).resolve().parent.parent
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

DEVICE = os.environ.get("QVIZ_TEST_DEVICE", "cuda")


def there(value: Any) -> Any:  # noqa: ANN401 - an argument of an operator
    """An argument on the GPU, with the strides it has."""
    if not isinstance(value, Tensor):
        return value
    if 0 in value.stride():  # expanded: .to() would write it out
        size = [
            1 if stride == 0 else n for n, stride in zip(value.shape, value.stride(), strict=True)
        ]
        return value[tuple(slice(n) for n in size)].to(DEVICE).expand(value.shape)
    moved = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
    return moved.copy_(value)


def assert_agrees(found: Tensor, wanted: Tensor, name: str) -> None:
    """Codes bit for bit, floats within one unit in the last place, layouts alike."""
    assert found.device.type == DEVICE, name
    assert found.dtype is wanted.dtype, name
    assert found.shape == wanted.shape, name
    assert found.stride() == wanted.stride(), name
    here = found.cpu()
    if not wanted.is_floating_point():
        assert torch.equal(here, wanted), f"{name}: {int((here != wanted).sum())} codes differ"
        return
    limit = torch.finfo(wanted.dtype).eps * wanted.double().abs()
    assert ((here.double() - wanted.double()).abs() <= limit).all(), name
