"""Which layer gets how many bits: the integer programme of CalibTIP, solved by HiGHS.

Hubara et al. 2021 (arXiv 2006.10518), section 4. With I_{l,p} = 1 if layer l has width p:

    minimise    sum_l sum_p I_{l,p} * max(loss_{l,p} - loss_base, 1e-6)
    subject to  sum_p I_{l,p} = 1 for every layer
                sum_l sum_p I_{l,p} * cost_{l,p} <= limit

where a cost is bits of weights (the paper's), bit operations or measured seconds; or the dual, the
least cost whose summed loss stays under a limit. The losses are measured one layer at a time
(``layer_losses.py``), and adding them up assumes that layers do not interact; the frontier
(``frontier.py``) measures how far that holds.

First and last ops keep the base's width unless asked otherwise: they are the ones the literature
finds most easily hurt, and hold few of the weights.
"""

from __future__ import annotations

import math

from qviz.errors import MissingExtraError, TuneError
from qviz.search.allocation_problem import Problem
from qviz.search.silence import silenced
from qviz.search.widths import Allocation, CostKind, Limit, Width, cost_of

#: A limit counts as kept up to this share of it: sums of times are floating point.
SLACK = 1e-9
_ROUNDS = 20
_WORDS = {
    "size": ("size limit", "of the float32 weights"),
    "bytes": ("size limit", "bytes"),
    "bops": ("limit on bit operations", "of those at 8 bits"),
    "latency": ("latency limit", "seconds"),
}


def allocate(problem: Problem, limit: Limit, *, cost: CostKind = "size") -> Allocation:
    """The widths of least predicted loss within a limit; for a limit on the loss, of least cost.

    Args:
        problem: what there is to choose from.
        limit: what has to be kept to.
        cost: what is made least under a limit on the loss.

    Raises:
        TuneError: the limit cannot be met; it names the smallest that can.
        MissingExtraError: scipy is not installed.
    """
    check(problem, limit, cost=cost)
    if limit.kind == "loss":
        objective = [problem.cost(cost, name, width) for name, width in problem.choices]
        limited = [problem.increase(name, width) for name, width in problem.choices]
    else:
        objective = [problem.increase(name, width) for name, width in problem.choices]
        limited = [problem.cost(limit.kind, name, width) for name, width in problem.choices]
    widths = _solve(problem.choices, objective, limited, problem.units(limit))
    return problem.allocation(widths, limit, "integer programme")


def check(problem: Problem, limit: Limit, *, cost: CostKind = "size") -> None:
    """Refuse a limit that no choice meets; what the losses are does not matter.

    Args:
        problem: what there is to choose from.
        limit: what has to be kept to.
        cost: what is made least under a limit on the loss.

    Raises:
        TuneError: it names the smallest limit that can be met, or there are no times.
    """
    if limit.kind == "loss":  # every layer at the base adds nothing
        problem.least(cost)
        if limit.value < 0:
            raise TuneError(
                f"limit on the loss {limit.value:g}",
                "is below 0",
                "Allow at least what 8 bits lose",
            )
        return
    least = problem.least(limit.kind)
    smallest = cost_of(least.costs, limit.kind)
    if smallest > limit.value * (1 + SLACK):
        what, unit = _WORDS[limit.kind]
        kept = ", with first and last ops at 8 bits" if problem.keep else ""
        raise TuneError(
            f"{what} {limit.value:.6g}",
            f"cannot be met: the smallest is {_up(smallest)} {unit}{kept}",
            "Raise it, or offer fewer bits",
        )


def check_solver() -> None:
    """Refuse to allocate where there is nothing that solves the programme.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        import scipy.optimize  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "bit allocation", "scipy is not installed", "Install it: pip install 'qviz[search]'"
        ) from error


def _up(value: float) -> str:
    """A number of four digits that is not below ``value``."""
    step = 10.0 ** (math.floor(math.log10(value)) - 3) if value > 0 else 1.0
    return f"{math.ceil(value / step) * step:.6g}"


def _solve(
    choices: tuple[tuple[str, Width], ...],
    objective: list[float],
    limited: list[float],
    limit: float,
) -> dict[str, Width]:
    """Layer -> width of least summed ``objective`` with summed ``limited`` <= ``limit``."""
    check_solver()
    import numpy as np
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import coo_matrix

    names = list(dict.fromkeys(name for name, _ in choices))
    row = {name: index for index, name in enumerate(names)}
    count = len(choices)
    once = coo_matrix(
        (np.ones(count), ([row[name] for name, _ in choices], range(count))),
        shape=(len(names), count),
    )
    # HiGHS stops within an absolute gap of 1e-6 and keeps constraints to 1e-7, whatever their unit
    goal = np.array(objective) * (1e5 / max(max(objective), 1e-300))
    scale = 1e3 / max(max(limited), 1e-300)
    room = limit * scale
    for _ in range(_ROUNDS):
        with silenced():
            solved = milp(
                goal,
                integrality=np.ones(count),
                bounds=(0, 1),
                constraints=[
                    LinearConstraint(once, 1, 1),
                    LinearConstraint(np.array(limited)[None, :] * scale, -np.inf, room),
                ],
                options={"mip_rel_gap": 0.0},
            )
        if solved.x is None:
            break
        taken = [index for index in range(count) if solved.x[index] > 0.5]
        over = math.fsum(limited[index] for index in taken) - limit
        if over <= SLACK * abs(limit):
            return {choices[index][0]: choices[index][1] for index in taken}
        room -= max(over * scale, SLACK * abs(room))
    raise TuneError(
        "integer programme",
        f"HiGHS found no solution: {solved.message}",
        "Raise the limit, or allocate greedily",
    )
