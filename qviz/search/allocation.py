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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from qviz.errors import MissingExtraError, TuneError
from qviz.search.layer_losses import LayerLosses
from qviz.search.widths import (
    FLOAT_BITS,
    Allocation,
    AllocationMethod,
    CostKind,
    Costs,
    Layer,
    Limit,
    Width,
    cost_of,
)

#: Seconds of a layer at a width.
Times = Mapping[str, Mapping[Width, float]]
#: A limit counts as kept up to this share of it: sums of times are floating point.
SLACK = 1e-9
_ROUNDS = 20
_WORDS = {
    "size": ("size limit", "of the float32 weights"),
    "bytes": ("size limit", "bytes"),
    "bops": ("limit on bit operations", "of those at 8 bits"),
    "latency": ("latency limit", "seconds"),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """What there is to choose from, and what each choice costs.

    Attributes:
        losses: measured per layer and width.
        keep: layers that stay at the base's width.
        times: seconds per layer and width; None if they are not known.
    """

    losses: LayerLosses
    keep: frozenset[str] = frozenset()
    times: Times | None = None

    @staticmethod
    def of(
        losses: LayerLosses, *, keep: Collection[str] | None = None, times: Times | None = None
    ) -> Problem:
        """A problem; ``keep`` None keeps the first and last layers at the base's width.

        Raises:
            TuneError: ``keep`` names no layer, or a layer has no time.
        """
        if keep is None:
            keep = [layer.name for layer in losses.layers if layer.end]
        if strange := sorted(set(keep) - losses.layer_of.keys()):
            raise TuneError(
                strange[0], "gets no width of its own", "Name ops with multiply-accumulates"
            )
        problem = Problem(losses, frozenset(keep), times)
        if times is not None:
            for name, width in problem.choices:
                if width not in times.get(name, {}):
                    raise TuneError(
                        f"latency of {name}", f"is not known at {width}", "Time that width too"
                    )
        return problem

    @cached_property
    def choices(self) -> tuple[tuple[str, Width], ...]:
        """(layer, width), in execution order, the base's width first."""
        return tuple(
            (layer.name, width)
            for layer in self.losses.layers
            for width in self._widths(layer.name)
        )

    def _widths(self, layer: str) -> tuple[Width, ...]:
        base = self.losses.base
        others = [w for w in self.losses.widths_of(layer) if w != base]
        return (base,) if layer in self.keep else (base, *others)

    @cached_property
    def floor(self) -> float:
        """Bytes that no width changes."""
        return self.losses.rest * FLOAT_BITS / 8

    @cached_property
    def elements(self) -> int:
        """Weights of all layers."""
        return sum(layer.elements for layer in self.losses.layers)

    @cached_property
    def base_bops(self) -> int:
        """Bit operations of the base, per sample."""
        return sum(bops(layer, self.losses.base) for layer in self.losses.layers)

    def increase(self, name: str, width: Width) -> float:
        """What a layer adds to the base's loss."""
        return self.losses.increase_of[name, width]

    def cost(self, kind: CostKind, name: str, width: Width) -> float:
        """What a layer costs, in whole units: bits, bit operations, or seconds."""
        layer = self.losses.layer_of[name]
        if kind == "latency":
            if self.times is None:
                raise TuneError(
                    "latency limit",
                    "no times per layer and width are known",
                    "Give them, as qviz bench measures them, or limit the size",
                )
            return self.times[name][width]
        return bops(layer, width) if kind == "bops" else layer.elements * width.weights

    def units(self, limit: Limit) -> float:
        """A limit in the unit of ``cost``."""
        return {
            "size": limit.value * self.elements * FLOAT_BITS,
            "bytes": (limit.value - self.floor) * 8,
            "bops": limit.value * self.base_bops,
            "latency": limit.value,
            "loss": limit.value,
        }[limit.kind]

    def allocation(
        self, widths: Mapping[str, Width], limit: Limit | None, method: AllocationMethod
    ) -> Allocation:
        """These widths with what they cost and what they are predicted to lose."""
        chosen = tuple((layer.name, widths[layer.name]) for layer in self.losses.layers)
        increase = math.fsum(self.increase(name, width) for name, width in chosen)
        return Allocation(
            widths=chosen,
            increase=increase,
            loss=self.losses.base_loss + increase,
            costs=self.costs(widths),
            limit=limit,
            method=method,
        )

    def costs(self, widths: Mapping[str, Width]) -> Costs:
        """What widths for all layers cost."""
        layers = self.losses.layers
        bits = sum(layer.elements * widths[layer.name].weights for layer in layers)
        operations = sum(bops(layer, widths[layer.name]) for layer in layers)
        times = self.times
        seconds = None
        if times is not None:
            seconds = math.fsum(times[layer.name][widths[layer.name]] for layer in layers)
        return Costs(
            size=bits / max(1, self.elements * FLOAT_BITS),
            bytes=bits / 8 + self.floor,
            bops=operations,
            relative_bops=operations / max(1, self.base_bops),
            seconds=seconds,
        )

    def least(self, kind: CostKind) -> Allocation:
        """The allocation of least cost, whatever it loses."""
        widths: dict[str, Width] = {}
        for name, width in self.choices:
            best = widths.setdefault(name, width)
            key = (self.cost(kind, name, width), self.increase(name, width))
            if key < (self.cost(kind, name, best), self.increase(name, best)):
                widths[name] = width
        return self.allocation(widths, None, "given")

    def base(self) -> Allocation:
        """Every layer at the base's width."""
        widths = {layer.name: self.losses.base for layer in self.losses.layers}
        return self.allocation(widths, None, "given")


def bops(layer: Layer, width: Width) -> int:
    """Bit operations per sample: multiply-accumulates x weight bits x activation bits.

    A product of two activations, as in attention, has activation bits on both sides.
    """
    other = width.weights if layer.elements else width.activations
    return layer.macs * other * width.activations


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
    if limit.kind == "loss":
        objective = [problem.cost(cost, name, width) for name, width in problem.choices]
        limited = [problem.increase(name, width) for name, width in problem.choices]
    else:
        check(problem, limit)
        objective = [problem.increase(name, width) for name, width in problem.choices]
        limited = [problem.cost(limit.kind, name, width) for name, width in problem.choices]
    if limit.value < 0:
        raise TuneError(
            f"limit on the loss {limit.value:g}", "is below 0", "Allow at least what 8 bits lose"
        )
    widths = _solve(problem.choices, objective, limited, problem.units(limit))
    return problem.allocation(widths, limit, "integer programme")


def check(problem: Problem, limit: Limit) -> None:
    """Refuse a limit that no choice meets.

    Raises:
        TuneError: it names the smallest limit that can be met.
    """
    assert limit.kind != "loss"  # every layer at the base adds nothing
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
    try:
        import numpy as np
        from scipy.optimize import LinearConstraint, milp
        from scipy.sparse import coo_matrix
    except ImportError as error:
        raise MissingExtraError(
            "bit allocation", "scipy is not installed", "Install it: pip install 'qviz[search]'"
        ) from error
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
