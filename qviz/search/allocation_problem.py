"""What the integer programme chooses from: every layer at every width, with loss and cost.

Costs are bits of weights, bit operations (multiply-accumulates x weight bits x activation bits) or
measured seconds. Bits count as they are chosen: a checkpoint packs weights of 4 bits in half a byte
and stores those of 5 to 7 bits in a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from qviz.errors import TuneError
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
)

#: Seconds of a layer at a width.
Times = Mapping[str, Mapping[Width, float]]


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
