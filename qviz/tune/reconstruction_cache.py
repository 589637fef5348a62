"""What one unit is fitted on: what it reads, what the float model makes, and how it is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qviz.execute import Program, Step, fill
from qviz.graph import Graph
from qviz.rewrite import get_attr
from qviz.simulate import Simulator
from qviz.tune.reconstruction_cut import Cut, cut_of, samples_first
from qviz.tune.reconstruction_units import Unit
from qviz.tune.reconstruction_walk import Walk, edited
from qviz.weights import weight_of

#: Bytes of one unit's values that are kept to fit it on.
CACHE = 256 << 20
#: Samples kept at least, if there are as many.
FEWEST = 16


@dataclass(frozen=True, eq=False)
class Cache:
    """What one unit is fitted on.

    Attributes:
        inputs: by argument position, ``[E, ...]``; not rounded.
        target: the float model's output, ``[E, ...]``.
        fit: numbers of the entries to fit on.
        held_out: numbers of the others, of other samples.
        macs: multiply-accumulates of the op per entry.
        call: the unit for some entries: (inputs by position, weight, bias) -> output; None for
            the weight or bias takes the op's own.
    """

    inputs: Mapping[int, Tensor]
    target: Tensor
    fit: Tensor
    held_out: Tensor
    macs: float
    call: Callable[[Mapping[int, Tensor], Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Split:
    """Samples to fit on and samples held out.

    Attributes:
        order: sample numbers in random order, those held out first.
        held_out: how many are held out.
    """

    order: Tensor
    held_out: int

    @staticmethod
    def of(count: int, share: float, seed: int) -> Split:
        """Hold out a share of ``count`` samples, at least one and not all."""
        generator = torch.Generator().manual_seed(seed)
        held_out = min(count - 1, max(1, round(share * count)))
        return Split(torch.randperm(count, generator=generator), held_out)

    def kept(self, most: int) -> Tensor:
        """At most so many samples in the same proportion, bool ``[count]``."""
        count = len(self.order)
        share = min(1.0, max(FEWEST, most) / count)
        held = max(1, round(share * self.held_out))
        fitted = max(1, round(share * (count - self.held_out)))
        kept = torch.zeros(count, dtype=torch.bool)
        kept[self.order[:held]] = True
        kept[self.order[self.held_out : self.held_out + fitted]] = True
        return kept

    def is_held_out(self) -> Tensor:
        """Bool ``[count]``."""
        found = torch.zeros(len(self.order), dtype=torch.bool)
        found[self.order[: self.held_out]] = True
        return found


def record(
    unit: Unit, simulator: Simulator, reference: Walk, own: Walk, split: Split, *, seed: int
) -> Cache:
    """What a unit reads in ``own`` and should make as in ``reference``; both advance to it.

    Args:
        unit: the unit.
        simulator: of the graph that ``own`` walks through.
        reference: the untouched float model.
        own: the subject: its float values, or its quantized prefix.
        split: of the samples.
        seed: of the parts of each sample that are kept.
    """
    program, graph, first = own.program, simulator.graph, unit.steps[0]
    step = program.steps[first]
    reference.reach(first)
    own.reach(first)
    args, _ = fill(step, own.values[0])
    found = [
        (position, slot)
        for position, given in enumerate(args)
        for slot in step.reads
        if slot in program.tensor_of_slot and given is own.values[0][slot]
    ]
    positions, slots = [p for p, _ in found], [s for _, s in found]
    reads = [graph.tensors[program.tensor_of_slot[s]] for s in slots]
    made = graph.tensors[unit.op]
    weight = weight_of(graph, unit.op)
    stored = None if weight is None else get_attr(graph.module, weight.tensor)
    cut = cut_of(graph.ops[unit.op].type, args, stored, reads, made)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
    parts: list[tuple[list[Tensor], Tensor]] = []
    owners: list[Tensor] = []
    done, kept = 0, None
    for number, values in enumerate(own.values):
        target = samples_first(_target(unit, graph, reference, number), made)
        inputs = [samples_first(values[s], i) for s, i in zip(slots, reads, strict=True)]
        if kept is None:
            kept = split.kept(CACHE // _bytes(cut, inputs, target))
        rows = kept[done : done + len(target)].nonzero().flatten()
        if len(rows):
            parts.append(cut.take([x[rows] for x in inputs], target[rows], generator))
            each = len(parts[-1][1]) // len(rows)
            owners.append((rows + done).repeat_interleave(each))
        done += len(target)
    output = torch.cat([made for _, made in parts])
    held_out = split.is_held_out()[torch.cat(owners)]
    return Cache(
        {
            p: program.layout(torch.cat([inputs[i] for inputs, _ in parts]))
            for i, p in enumerate(positions)
        },
        program.layout(output),
        (~held_out).nonzero().flatten(),
        held_out.nonzero().flatten(),
        graph.ops[unit.op].macs * output[0].numel() / max(1, math.prod(map(abs, made.shape))),
        _caller(unit, simulator.differentiable, own, cut, positions),
    )


def _bytes(cut: Cut, inputs: Sequence[Tensor], target: Tensor) -> int:
    """Bytes of one sample's parts."""
    parts, output = cut.take([x[:1] for x in inputs], target[:1], torch.Generator())
    return max(1, sum(v.numel() * v.element_size() for v in (*parts, output)))


def _target(unit: Unit, graph: Graph, reference: Walk, number: int) -> Tensor:
    """The unit's output in the float model, for one batch, in the units of the graph."""
    values = list(reference.values[number])
    made: Any = None
    with torch.no_grad():
        for index in unit.steps:
            step = reference.program.steps[index]
            args, kwargs = fill(step, values)
            made = step.target(*args, **kwargs)
            factor = graph.rescaled.get(unit.op)
            if index == unit.steps[0] and factor is not None:
                axis = 1 if graph.ops[unit.op].type.startswith("conv") else -1
                shape = [1] * made.dim()
                shape[axis] = -1
                made = made * factor.to(made).reshape(shape)
            values[step.slot] = made
    assert isinstance(made, Tensor)
    return made


def _caller(
    unit: Unit, plain: Program, own: Walk, cut: Cut, positions: Sequence[int]
) -> Callable[[Mapping[int, Tensor], Tensor | None, Tensor | None], Tensor]:
    step = plain.steps[unit.steps[0]]
    args, kwargs = fill(step, own.values[0])
    weight = weight_of(plain.graph, unit.op)
    after = [_activation(plain.steps[i], own.values[0]) for i in unit.steps[1:]]

    def call(inputs: Mapping[int, Tensor], value: Tensor | None, bias: Tensor | None) -> Tensor:
        edits: list[tuple[int, Any]] = [
            (p, cut.native(i, inputs[p])) for i, p in enumerate(positions)
        ]
        if weight is not None and value is not None:
            edits.append((weight.position, value))
        if bias is not None:
            edits.append((unit.bias_position, bias))
        made: Tensor = step.target(*cut.arguments(edited(args, edits)), **kwargs)
        for activation in after:
            made = activation(made)
        return cut.common(made)

    return call


def _activation(step: Step, values: Sequence[Any]) -> Callable[[Tensor], Tensor]:
    """A step of one input as a function of it."""
    known = list(values)
    (source,) = step.reads
    mark = torch.empty(0)
    known[source] = mark
    args, kwargs = fill(step, known)

    def activation(x: Tensor) -> Tensor:
        made: Tensor = step.target(*[x if a is mark else a for a in args], **kwargs)
        return made

    return activation
