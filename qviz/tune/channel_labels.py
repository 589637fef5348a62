"""What is known of channels that must be scaled together: who makes, reads and adds to them.

Every output channel of a *producer* gets a label. Labels that must have one factor are joined
(union-find); a label joined with ``FIXED`` keeps the factor 1, and the reason is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from qviz.tune.scaled_weight import Layout

#: Label of what must keep its scale, and of zeros, which any factor leaves what they are.
FIXED, ZERO = 0, -1


def once(labels: Tensor) -> Tensor:
    """The labels without the axes along which nothing but a view repeats them."""
    for d in range(labels.dim()):
        if labels.stride(d) == 0 and labels.shape[d]:
            labels = labels.narrow(d, 0, 1)
    return labels


@dataclass(frozen=True, eq=False)
class Producer:
    """Makes channels: dividing row i of its weight and bias by s divides channel i by s.

    Attributes:
        op: its name.
        weight: parameter.
        bias: parameter, None without one.
        layout: how the weight is stored; None for a norm, whose weight is ``[C]``.
        labels: int64 ``[C]``.
    """

    op: str
    weight: str
    bias: str | None
    layout: Layout | None
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads channels: multiplying column i of its weight by s undoes a factor 1/s of channel i.

    Attributes:
        op: its name.
        weight: parameter.
        layout: how it is stored.
        labels: int64 ``[C]``.
    """

    op: str
    weight: str
    layout: Layout
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Constant:
    """A stored tensor that is added to channels, so it is divided as they are.

    Attributes:
        parameter: its name.
        labels: int64, of its shape.
    """

    parameter: str
    labels: Tensor


@dataclass
class Labels:
    """What one run found; a label stays the one given first, ``root`` says what it became.

    Attributes:
        producers: in execution order.
        readers: likewise.
        constants: likewise.
        tensors: tensor that is read as int8 -> the labels in it.
        floor: label -> least factor that keeps a clamp without effect.
        reasons: fixed label -> why.
    """

    producers: list[Producer] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    floor: dict[int, float] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    _above: list[int] = field(default_factory=lambda: [FIXED])

    def new(self, count: int) -> Tensor:
        """Labels nobody has yet, int64 ``[count]``."""
        start = len(self._above)
        self._above.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def root(self, label: int) -> int:
        """The label that stands for all that were joined with this; ``FIXED`` if it is fixed."""
        while label > FIXED and (above := self._above[label]) != label:
            label = above  # paths stay as they are: ``why`` walks them too
        return label

    def roots(self) -> Tensor:
        """The root of every label, int64."""
        return torch.tensor([self.root(label) for label in range(len(self._above))])

    def join(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Give pairs of labels one factor; ``reason`` says why, where one of them is fixed."""
        pairs = torch.unique(torch.stack([a.flatten(), b.flatten()]), dim=1)
        for one, other in pairs.t().tolist():
            if ZERO in (one, other):
                continue
            low, high = sorted((self.root(one), self.root(other)))
            if low != high:
                self._above[high] = low  # FIXED is the lowest
                if low == FIXED:
                    self.reasons.setdefault(high, reason)

    def fix(self, labels: Tensor, reason: str) -> None:
        """Keep the factor 1 for these."""
        some = torch.unique(once(labels))
        self.join(some, torch.full_like(some, FIXED), reason)

    def why(self, label: int) -> str:
        """Why a fixed label is fixed."""
        while label not in self.reasons and self._above[label] != label:
            label = self._above[label]
        return self.reasons.get(label, "")
