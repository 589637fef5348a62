"""Bit allocation by greed, on the same inputs as the integer programme: what it is compared with.

From the base on, always the step that adds the least loss per unit of cost saved, until the limit
is kept. Steps never go back, so an early one may turn out to have been a bad bargain.
"""

from __future__ import annotations

from collections.abc import Mapping

from qviz.errors import TuneError
from qviz.search.allocation import SLACK, check
from qviz.search.allocation_problem import Problem
from qviz.search.widths import Allocation, CostKind, Limit, Width


def greedy(problem: Problem, limit: Limit, *, cost: CostKind = "size") -> Allocation:
    """Widths within a limit, one step at a time; for a limit on the loss, until it is used up.

    Args:
        problem: what there is to choose from.
        limit: what has to be kept to.
        cost: what is saved under a limit on the loss.

    Raises:
        TuneError: the limit cannot be met, or the steps end before it is.
    """
    kind = cost if limit.kind == "loss" else limit.kind
    if limit.kind != "loss":
        check(problem, limit)
    widths = {layer.name: problem.losses.base for layer in problem.losses.layers}
    room = problem.units(limit)
    while limit.kind == "loss" or _cost(problem, kind, widths) > room + SLACK * abs(room):
        step = _best(problem, kind, widths, room if limit.kind == "loss" else None)
        if step is None and limit.kind == "loss":
            break
        if step is None:  # only where a cheaper width was passed by for a still cheaper one
            raise TuneError(
                "greedy allocation", "ran out of steps", "Use the integer programme instead"
            )
        widths[step[0]] = step[1]
    return problem.allocation(widths, limit, "greedy")


def _cost(problem: Problem, kind: CostKind, widths: Mapping[str, Width]) -> float:
    return sum(problem.cost(kind, name, width) for name, width in widths.items())


def _best(
    problem: Problem, kind: CostKind, widths: Mapping[str, Width], room: float | None
) -> tuple[str, Width] | None:
    """The step that adds the least loss per cost saved, and stays within ``room`` of loss."""
    total = sum(problem.increase(name, width) for name, width in widths.items())
    found: tuple[float, str, Width] | None = None
    for name, width in problem.choices:
        now = widths[name]
        saved = problem.cost(kind, name, now) - problem.cost(kind, name, width)
        added = problem.increase(name, width) - problem.increase(name, now)
        if saved <= 0 or (room is not None and total + added > room):
            continue
        if found is None or added / saved < found[0]:
            found = (added / saved, name, width)
    return None if found is None else found[1:]
