"""What is computed once from an int8 weight and used by every call: packed and carried forms.

A form is dropped when the weight is: entries are found by the tensor's identity and hold it weakly.
An entry is also dropped when the weight has been written to (its version counter moved) or now
lives elsewhere (``weight.data = other``). Tensors created under ``torch.inference_mode`` have no
version counter; writing to one of those in place is the one change that goes unnoticed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

#: Forms kept per weight. Packed weights depend on the input shape, and a model sees few of those:
#: a full batch, the last one, a single sample.
MOST_FORMS = 6


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


class PackedWeight:
    """The derived forms of one weight.

    Args:
        weight: int8 codes; held weakly, so whoever calls must keep it alive.
    """

    __slots__ = ("_address", "_forms", "_ref", "_version_seen", "notes", "zero_points")

    def __init__(self, weight: Tensor, forget: Callable[[weakref.ref[Tensor]], None]) -> None:
        self._ref = weakref.ref(weight, forget)
        self._version_seen = _version(weight)
        self._address = weight.data_ptr()
        self._forms: dict[Hashable, Tensor] = {}
        self.notes: tuple[Any, ...] = ()  # how to call kernels with it (shortcut.py)
        # oneDNN wants zero points per channel; [1] would do for most, not for all of its checks.
        self.zero_points = torch.zeros(weight.shape[0], dtype=torch.int64)

    @property
    def weight(self) -> Tensor:
        """The weight itself."""
        weight = self._ref()
        if weight is None:
            raise ReferenceError("the weight of a PackedWeight is gone")
        return weight

    def fits(self, weight: Tensor) -> bool:
        """Whether this entry is of ``weight`` as it is now."""
        return (
            self._ref() is weight
            and self._version_seen == _version(weight)
            and self._address == weight.data_ptr()
        )

    def form(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The form called ``key``, made when it is not there; the oldest makes room."""
        found = self._forms.get(key)
        if found is None:
            found = make()
            if len(self._forms) >= MOST_FORMS:
                del self._forms[next(iter(self._forms))]
            self._forms[key] = found
        return found

    def carried(self, dtype: torch.dtype) -> Tensor:
        """The codes as floats."""
        return self.form(dtype, lambda: self.weight.to(dtype))


_ENTRIES: dict[int, PackedWeight] = {}


def packed_weight(weight: Tensor) -> PackedWeight:
    """The entry of ``weight``, new when there is none or the weight has changed."""
    key = id(weight)
    entry = _ENTRIES.get(key)
    if entry is None or not entry.fits(weight):

        def forget(reference: weakref.ref[Tensor]) -> None:
            kept = _ENTRIES.get(key)
            if kept is not None and kept._ref is reference:
                del _ENTRIES[key]

        entry = _ENTRIES[key] = PackedWeight(weight, forget)
    return entry


def drop_notes() -> None:
    """Forget how kernels were called: another backend may be chosen now."""
    for entry in list(_ENTRIES.values()):
        entry.notes = ()
