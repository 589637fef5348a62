"""What chooses an allocation in a pipeline: it checks first what needs no losses, and then chooses.

Losses take minutes, and hours where every width is reconstructed before. That a limit can be met,
that the ops kept are layers and that times are known needs only layers and widths.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from qviz.search.allocation import allocate, check, check_solver
from qviz.search.allocation_problem import Problem, Times
from qviz.search.layer_losses import LayerLoss, LayerLosses
from qviz.search.layers import rest_of
from qviz.search.mixing import Networks, Prepared
from qviz.search.preparing import base_recipe
from qviz.search.widths import BASE, Allocation, CostKind, Limit, Width
from qviz.tune.step import Subject


class Choose(Protocol):
    """Gives the allocation."""

    def check(self, offered: LayerLosses) -> None:
        """Refuse what cannot work, before anything is measured: every loss is 0 there."""

    def __call__(self, networks: Networks, losses: LayerLosses) -> Allocation:
        """The allocation, given the networks and their losses."""


@dataclass(frozen=True, eq=False)
class Within:
    """By the integer programme, within a limit: arguments of ``Problem.of`` and ``allocate``."""

    limit: Limit
    cost: CostKind = "size"
    keep: Collection[str] | None = None
    times: Times | None = None

    def check(self, offered: LayerLosses) -> None:
        """Refuse a limit that cannot be met, and what is no layer or has no time."""
        check_solver()
        check(self._problem(offered), self.limit, cost=self.cost)

    def __call__(self, networks: Networks, losses: LayerLosses) -> Allocation:
        """The widths of least predicted loss."""
        return allocate(self._problem(losses), self.limit, cost=self.cost)

    def _problem(self, losses: LayerLosses) -> Problem:
        return Problem.of(losses, keep=self.keep, times=self.times)


def offered_to(subject: Subject, widths: Sequence[Width]) -> LayerLosses:
    """Every layer at every width that it would be measured at, with a loss of 0 each."""
    prepared = Prepared(base_recipe(subject.recipe))
    at = dict.fromkeys((BASE, *widths), prepared)
    networks = Networks(subject.graph, subject.original, at)
    rows = tuple(
        LayerLoss(layer.name, width, 0.0)
        for layer in networks.layers
        for width in networks.widths
        if width != networks.base and networks.changes(layer, width)
    )
    rest = rest_of(networks.graph, networks.layers)
    return LayerLosses(networks.layers, networks.base, 0.0, rows, rest=rest)
