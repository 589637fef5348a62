"""Groups of channels that can be scaled, and the parameters that come of scaling them.

A group is what one vector of factors s belongs to: channel i of its producers (and of what is added
to them) is divided by ``s[i]``, the weights that read it are multiplied by it. The float function
stays what it is but for rounding; with powers of two even the bits stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from qviz.calibrators import CALIBRATORS
from qviz.data import Data
from qviz.graph import Graph
from qviz.recipe import Recipe
from qviz.rewrite import get_attr
from qviz.simulate import Simulator
from qviz.tune.channel_flow import follow
from qviz.tune.channel_labels import FIXED, Constant, Labels, Producer, Reader
from qviz.weights import TunedWeights

Item = TypeVar("Item", Producer, Reader, Constant)

#: Calibrators whose ranges can be made anew.
_FOLLOWING = CALIBRATORS.keys() - {"fixed"}


@dataclass(frozen=True, eq=False)
class Group:
    """Channels with factors of their own, and who makes and reads them.

    Attributes:
        channels: how many factors.
        producers: each with the factor of every row: int64 ``[rows]``, -1 where it has none.
        readers: each with the factor of every column, likewise.
        constants: each with the factor of every entry, in its shape.
        tensors: those read as int8 that hold its channels.
        floor: least factor of each channel, ``[channels]``.
    """

    channels: int
    producers: tuple[tuple[Producer, Tensor], ...]
    readers: tuple[tuple[Reader, Tensor], ...]
    constants: tuple[tuple[Constant, Tensor], ...]
    tensors: tuple[str, ...]
    floor: Tensor

    @cached_property
    def ops(self) -> tuple[str, ...]:
        """Names of its ops, producers first."""
        made = [p.op for p, _ in self.producers]
        return tuple(dict.fromkeys(made + [r.op for r, _ in self.readers]))

    @cached_property
    def stored(self) -> tuple[tuple[str, str], ...]:
        """Its ops with their weight parameters; an op may make and read its channels."""
        items = [p for p, _ in self.producers] + [r for r, _ in self.readers]
        return tuple(dict.fromkeys((item.op, item.weight) for item in items))

    @property
    def weights(self) -> tuple[str, ...]:
        """Weight parameters of its ops."""
        return tuple(parameter for _, parameter in self.stored)

    @property
    def several(self) -> bool:
        """Whether an add or a concatenation makes several producers share channels."""
        return len(self.producers) > 1

    @property
    def name(self) -> str:
        """``conv1, conv3 -> conv2``."""
        made = dict.fromkeys(p.op for p, _ in self.producers)
        read = dict.fromkeys(r.op for r, _ in self.readers)
        return f"{', '.join(made)} -> {', '.join(read)}"


def groups(simulator: Simulator, data: Data) -> tuple[tuple[Group, ...], Labels]:
    """All groups of a graph, in execution order, and what was found out about the rest.

    Args:
        simulator: of the graph.
        data: its first samples give the shapes.
    """
    batch = next(iter(data.head(2).batches(2)))
    found = follow(simulator.differentiable, batch)
    return grouped(found), found


def grouped(found: Labels) -> tuple[Group, ...]:
    """The groups of a labelled graph: free channels of producers that share one."""
    roots = found.roots()
    read = torch.zeros_like(roots, dtype=torch.bool)
    for reader in found.readers:
        read[_of(roots, reader.labels)] = True
    read[FIXED] = False
    members: list[set[int]] = []
    for producer in found.producers:
        own = _of(roots, producer.labels)
        free = set(own[read[own]].tolist())
        touching = [m for m in members if m & free]
        members = [m for m in members if not m & free]
        if free:
            members.append(free.union(*touching))
    return tuple(_group(found, roots, sorted(m)) for m in sorted(members, key=min))


def _of(roots: Tensor, labels: Tensor) -> Tensor:
    """Roots of labels; zeros have that of what is fixed, no factor either."""
    return roots[labels.clamp(min=FIXED)]


def _group(found: Labels, roots: Tensor, own: Sequence[int]) -> Group:
    place = torch.full_like(roots, -1)
    place[torch.tensor(own)] = torch.arange(len(own))
    floor = torch.zeros(len(own), dtype=torch.float64)
    for label, least in found.floor.items():
        if (channel := int(place[roots[label]])) >= 0:
            floor[channel] = max(float(floor[channel]), least)

    def mine(items: Sequence[Item]) -> tuple[tuple[Item, Tensor], ...]:
        pairs = [(item, place[_of(roots, item.labels)]) for item in items]
        return tuple((item, where) for item, where in pairs if bool((where >= 0).any()))

    def holds(labels: Tensor) -> bool:
        return bool((place[_of(roots, labels)] >= 0).any())

    return Group(
        channels=len(own),
        producers=mine(found.producers),
        readers=mine(found.readers),
        constants=mine(found.constants),
        tensors=tuple(name for name, labels in found.tensors.items() if holds(labels)),
        floor=floor,
    )


class Scaled:
    """Parameters of a graph while groups of their channels are scaled; float64.

    Args:
        graph: whose parameters; it is not changed.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._values: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}

    def value(self, parameter: str) -> Tensor:
        """A parameter as it is now."""
        if parameter not in self._values:
            self._values[parameter] = get_attr(self._graph.module, parameter).detach().double()
        return self._values[parameter]

    def made(self, group: Group) -> Tensor:
        """Largest magnitude of the weights that make each channel, ``[channels]``."""
        found = torch.zeros(group.channels, dtype=torch.float64)
        for producer, where in group.producers:
            weight = self.value(producer.weight)
            rows = weight.abs() if producer.layout is None else producer.layout.rows(weight)
            _raise_to(found, where, rows)
        return found

    def read(self, group: Group) -> Tensor:
        """Largest magnitude of the weights that read each channel, ``[channels]``."""
        found = torch.zeros(group.channels, dtype=torch.float64)
        for reader, where in group.readers:
            _raise_to(found, where, reader.layout.columns(self.value(reader.weight)))
        return found

    def both(self, group: Group) -> tuple[Tensor, Tensor]:
        """``made`` and ``read``."""
        return self.made(group), self.read(group)

    def scale(self, group: Group, s: Tensor) -> None:
        """Divide the channels of a group by ``s`` ``[channels]`` and let their readers undo it."""
        for producer, where in group.producers:
            rows, weight = spread_factors(s, where), self.value(producer.weight)
            layout = producer.layout
            self._values[producer.weight] = (
                weight / rows if layout is None else layout.divided(weight, rows)
            )
            if producer.bias is not None:
                self._values[producer.bias] = self.value(producer.bias) / rows
            self._outputs[producer.op] = self._outputs.get(producer.op, 1.0) / rows
        for constant, where in group.constants:
            value = self.value(constant.parameter)
            self._values[constant.parameter] = value / spread_factors(s, where)
        for reader, where in group.readers:
            columns, weight = spread_factors(s, where), self.value(reader.weight)
            self._values[reader.weight] = reader.layout.multiplied(weight, columns)

    def tuned(self) -> TunedWeights:
        """What differs from the graph's own parameters."""
        changed = {}
        for name, value in self._values.items():
            own = get_attr(self._graph.module, name)
            if not torch.equal(new := value.to(own.dtype), own):
                changed[name] = new
        outputs = {op: factor.float() for op, factor in self._outputs.items()}
        outputs = {op: factor for op, factor in outputs.items() if bool((factor != 1).any())}
        return TunedWeights(changed, rescaled=outputs)


def _raise_to(found: Tensor, where: Tensor, values: Tensor) -> None:
    mine = where >= 0
    found.scatter_reduce_(0, where[mine], values[mine].to(found.dtype), "amax")


def spread_factors(s: Tensor, where: Tensor) -> Tensor:
    """The factor of every row, column or entry; 1 where ``where`` is -1."""
    return torch.where(where >= 0, s[where.clamp(min=0)], 1.0)


def reasons(found: Labels, *, norms: bool = False) -> tuple[str, ...]:
    """Why channels keep their scale: one sentence per reason, that of most ops first.

    Args:
        found: the labelled graph.
        norms: of the norms, else of the convolutions and linears.
    """
    why: dict[str, list[str]] = {}
    for producer in found.producers:
        fixed = [n for n in producer.labels.tolist() if found.root(n) == FIXED]
        if fixed and norms == (producer.layout is None):
            why.setdefault(found.why(fixed[0]), []).append(producer.op)
    ordered = sorted(why.items(), key=lambda item: -len(item[1]))
    return tuple(f"{_some(ops)}: left alone, its output {text}" for text, ops in ordered)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def pinned(recipe: Recipe, group: Group) -> str | None:
    """A tensor of a group whose range no calibrator gives, so that it cannot follow a factor."""
    for tensor in group.tensors:
        known = recipe.range_of.get(tensor)
        if known is not None and known.calibrator.partition(":")[0] not in _FOLLOWING:
            return tensor
    return None
