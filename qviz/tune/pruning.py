"""Magnitude pruning: the smallest weights of every op become zero.

Deep Compression's first stage (Han et al. 2016, arXiv 1510.00149, section 2; Han et al. 2015,
arXiv 1506.02626), without the training that follows in the papers, so that the share is a matter of
a few ten per cent. Zeros save storage (relative_index.py), no time: the kernels are dense. Other
methods for storage keep zeros zero, so it may come before or after them; what fits the weights anew
(AdaRound, AdaQuant, training) does not, so it comes after those.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from qviz.tune.step import Option, Step, Subject
from qviz.tune.storing import (
    Replaced,
    Stored,
    codes_size,
    replaced,
    sqnr_db,
    stored_weights,
)

TITLE = "Magnitude pruning"
OPTIONS = (Option("share", 0.3, "part of each op's weights that becomes zero", 0.0, 0.99),)


def kept(weight: Tensor, share: float) -> Tensor:
    """Mask of the weights that stay: all but the ``share`` of smallest magnitude.

    Exactly ``floor(share * n)`` go; of equal magnitudes the first in memory.

    Args:
        weight: any shape.
        share: 0 to 1.
    """
    order = weight.abs().reshape(-1).argsort(stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[order[: int(share * weight.numel())]] = False
    return mask.reshape(weight.shape)


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops with an integer weight of their own, largest first."""
    return tuple(stored_weights(subject))


def apply(subject: Subject, *, share: float = 0.3) -> Step:
    """Set the smallest weights of every op to zero.

    The record holds a digest of each mask; the mask itself is where the tuned weights are zero.

    Args:
        subject: what to change.
        share: of each op's weights.

    Raises:
        TuneError: no op has an integer weight of its own.
        NotFiniteError: a weight holds NaN or Inf.
    """
    masks: dict[str, float | int | str] = {}

    def one(stored: Stored) -> Replaced:
        mask = kept(stored.value, share)
        bits = np.packbits(mask.numpy().reshape(-1)).tobytes()
        masks[f"mask {stored.op}"] = hashlib.blake2b(bits, digest_size=8).hexdigest()
        return _pruned(stored, mask)

    step = replaced(subject, TITLE, sites(subject), one, always=True)
    return replace(step, record={**step.record, **masks})


def _pruned(stored: Stored, mask: Tensor) -> Replaced:
    new = stored.value * mask
    least = float(stored.value[mask].abs().min()) if mask.any() else 0.0
    zeros = 1 - float((new != 0).sum()) / max(1, new.numel())
    return Replaced(
        value=new,
        keeps_grid=True,
        before=codes_size(stored, stored.value),
        after=codes_size(stored, new),
        note=f"{zeros:.1%} zero, below {least:.3g}, {sqnr_db(stored.value, new):.1f} dB",
    )
