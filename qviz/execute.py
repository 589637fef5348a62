"""Program: a Graph made ready to run, any number of times, from any op on.

The graph's nodes become a list of steps over numbered slots. Everything that does not depend on
the input is computed once; conv weights lie channels-last, which the CPU's and the GPU's conv
kernels want; values are dropped after their last reader. A run may replace operands (that is how
a recipe is simulated), watch values (that is how histograms are collected) and start in the
middle from kept values (that is how a sensitivity sweep avoids repeating the prefix).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qviz.data import Batch
from qviz.errors import DataError, ShapeError
from qviz.graph import Graph
from qviz.kernels import FRESH, IN_PLACE, quick_kernels
from qviz.rewrite import get_attr

#: Replaces one operand's value: an activation by a function of it, a weight by another tensor.
Edit = Callable[[Tensor], Tensor] | Tensor
#: step index -> (argument position, edit) pairs.
Edits = Mapping[int, Sequence[tuple[int, Edit]]]
Watch = Callable[[int, Any], None]


@dataclass(frozen=True)
class _Slot:
    index: int


@dataclass(frozen=True, eq=False)
class Step:
    """One call: ``slot = target(*args, **kwargs)``.

    Attributes:
        slot: where the result goes.
        target: what is called.
        args: positional arguments; a ``_Slot`` stands for that slot's value.
        kwargs: keyword arguments, likewise.
        plain: no argument nests slots in a list, so filling them in is quick.
        frees: slots nobody reads afterwards.
        reads: the slots it reads.
        in_place: what may be called instead to overwrite the first argument, None if nothing may.
        source: index of the step that made the first argument, for ``in_place``.
    """

    slot: int
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    plain: bool
    frees: tuple[int, ...]
    reads: tuple[int, ...]
    in_place: Callable[..., Any] | None
    source: int


class Program:
    """A Graph prepared to run. Immutable after construction, safe to share between threads."""

    def __init__(self, graph: Graph, *, plain: bool = False) -> None:
        """Prepare ``graph``; ``plain`` keeps to ops that autograd can go back through."""
        self.graph = graph
        self._plain = plain
        self.device = torch.device("cpu")
        nodes = list(graph.module.graph.nodes)
        self.slot_of: dict[str, int] = {n.name: i for i, n in enumerate(nodes)}
        self.steps: list[Step] = []
        self._constants: list[Any] = [None] * len(nodes)
        self._quick = {} if plain else quick_kernels()
        self._channels_last = any(op.type == "conv2d" for op in graph.ops.values())
        self._inputs = tuple(self.slot_of[i.node] for i in graph.inputs)
        self._build(nodes)
        self.step_of_slot = {s.slot: i for i, s in enumerate(self.steps)}
        self.step_of_op = {
            op.name: self.step_of_slot[self.slot_of[op.node]]
            for op in graph.ops.values()
            if self.slot_of[op.node] in self.step_of_slot
        }
        self.slot_of_tensor = {t.name: self.slot_of[t.node] for t in graph.tensors.values()}
        self.tensor_of_slot = {slot: name for name, slot in self.slot_of_tensor.items()}

    def _build(self, nodes: list[fx.Node]) -> None:
        constant: set[int] = set()
        pending: list[tuple[int, fx.Node]] = []
        for index, node in enumerate(nodes):
            if node.op == "get_attr":
                self._constants[index] = self.parameter(str(node.target))
                constant.add(index)
            elif node.op == "call_function":
                if all(self.slot_of[n.name] in constant for n in node.all_input_nodes):
                    with torch.no_grad():
                        args, kwargs = fx.node.map_arg(
                            (node.args, dict(node.kwargs)),
                            lambda n: self._constants[self.slot_of[n.name]],
                        )
                        self._constants[index] = node.target(*args, **kwargs)  # type: ignore[operator]
                    constant.add(index)
                else:
                    pending.append((index, node))
            elif node.op == "output":
                self._outputs = [
                    self.slot_of[n.name] if isinstance(n, fx.Node) else None
                    for n in pytree.tree_leaves(node.args[0])
                ]
                self._output_constants = [
                    None if isinstance(n, fx.Node) else n for n in pytree.tree_leaves(node.args[0])
                ]
        self._add_steps(pending, constant)

    def _add_steps(self, pending: list[tuple[int, fx.Node]], constant: set[int]) -> None:
        last: dict[int, int] = {}
        for position, (index, node) in enumerate(pending):
            last[index] = position  # a result nobody reads goes at once
            for read in node.all_input_nodes:
                last[self.slot_of[read.name]] = position
        never = constant | {s for s in self._outputs if s is not None}
        frees: dict[int, list[int]] = {}
        for slot, position in last.items():
            if slot not in never:
                frees.setdefault(position, []).append(slot)

        made = {index: position for position, (index, _) in enumerate(pending)}
        for position, (index, node) in enumerate(pending):
            args, kwargs = fx.node.map_arg(
                (node.args, dict(node.kwargs)),
                lambda n: _Slot(self.slot_of[n.name]),  # type: ignore[arg-type,return-value]
            )
            nested = [a for a in (*args, *kwargs.values()) if not isinstance(a, _Slot)]
            plain = not any(isinstance(leaf, _Slot) for leaf in pytree.tree_leaves(nested))
            plain = plain and not any(isinstance(v, _Slot) for v in kwargs.values())
            reads = tuple(self.slot_of[n.name] for n in node.all_input_nodes)
            target: Any = node.target
            target = self._quick.get(target, target)
            freed = tuple(frees.get(position, ()))
            in_place = None
            if not self._plain and reads and reads[0] in freed:
                in_place = _in_place(node)
            source = made.get(reads[0], -1) if reads else -1
            self.steps.append(
                Step(index, target, tuple(args), kwargs, plain, freed, reads, in_place, source)
            )

    def parameter(self, target: str) -> Tensor:
        """A stored tensor by its dotted name, laid out as the program runs it."""
        return self.layout(get_attr(self.graph.module, target))

    def layout(self, value: Tensor) -> Tensor:
        """Channels-last for 4-D values of a model with 2-D convolutions, unchanged otherwise."""
        if self._channels_last and value.dim() == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value

    def inputs(self, batch: Batch, device: torch.device | None = None) -> list[Any]:
        """Slots at the start of a run: constants and the batch's tensors.

        Args:
            batch: some samples.
            device: where the batch's tensors go; None is where the program runs.

        Raises:
            DataError: an input of the model is missing from the batch.
            ShapeError: an input has another shape or dtype than the model was captured with.
        """
        values = list(self._constants)
        for item in self.graph.inputs:
            try:
                value = (
                    batch.args[item.key] if isinstance(item.key, int) else batch.kwargs[item.key]
                )
            except (IndexError, KeyError):
                raise DataError(
                    f"input {item.tensor}",
                    f"{self.graph.name} needs it, the data does not have it",
                    "Let the data yield the inputs in order, or as a dict of argument names",
                ) from None
            self._check(item.tensor, value)
            values[self.slot_of[item.node]] = self.layout(value.to(device or self.device))
        return values

    def _check(self, name: str, value: Tensor) -> None:
        info = self.graph.tensors[name]
        shape = list(value.shape)
        if info.batch_dim is not None:
            del shape[info.batch_dim]
        dtype = str(value.dtype).removeprefix("torch.")
        if tuple(shape) != info.shape or dtype != info.dtype:
            raise ShapeError(
                f"input {name}",
                f"samples are {dtype} {tuple(shape)}, the model takes {info.dtype} {info.shape}",
                "Give data as the model was trained on, preprocessing included",
            )

    def run(
        self,
        values: list[Any],
        edits: Edits | None = None,
        *,
        start: int = 0,
        keep: bool = False,
        watch: Watch | None = None,
        grad: bool = False,
    ) -> list[Any]:
        """Run steps from ``start`` on and return the model's outputs, in the order of its tree.

        Args:
            values: slots as ``inputs`` gives them, or those a run with ``keep`` left behind. The
                list is changed; pass a copy to use it again.
            edits: operands to replace.
            start: index of the first step to run; the slots it and later steps read must be set.
            keep: leave every value in ``values`` instead of dropping it after its last reader.
            watch: called with (slot, value) for each input and after each step.
            grad: let autograd go back through the run; the program must be ``plain``.
        """
        edits = edits or {}
        made: dict[tuple[int, int], Tensor] = {}
        if watch is not None and start == 0:
            for slot in self._inputs:
                watch(slot, values[slot])
        with torch.set_grad_enabled(grad):
            for index in range(start, len(self.steps)):
                step = self.steps[index]
                args, kwargs = fill(step, values)
                if index in edits:
                    for position, edit in edits[index]:
                        args[position] = _edited(args[position], edit, step, position, made)
                # a value from before ``start`` belongs to whoever kept it
                own = step.source >= start and not keep and index not in edits
                overwrite = step.in_place if own else None
                values[step.slot] = (overwrite or step.target)(*args, **kwargs)
                if watch is not None:
                    watch(step.slot, values[step.slot])
                if not keep:
                    for slot in step.frees:
                        values[slot] = None
                if step.frees and made:
                    made = {k: v for k, v in made.items() if k[0] not in step.frees}
        return self.results(values)

    def results(self, values: list[Any]) -> list[Any]:
        """The model's outputs out of the slots, in the order of its tree."""
        return [
            constant if slot is None else values[slot]
            for slot, constant in zip(self._outputs, self._output_constants, strict=True)
        ]


def _in_place(node: fx.Node) -> Callable[..., Any] | None:
    """The overwriting form of an op that is the only reader of a fresh value of its own size."""
    target = IN_PLACE.get(node.target)
    source = node.args[0] if node.args else None
    if target is None or not isinstance(source, fx.Node) or source.target not in FRESH:
        return None
    value, own = source.meta.get("val"), node.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(own, Tensor):
        return None
    same = tuple(value.shape) == tuple(own.shape) and value.dtype == own.dtype
    once = len(source.users) == 1 and sum(a is source for a in node.args) == 1
    return target if same and once else None


def fill(step: Step, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """A step's arguments with the slots' values filled in."""
    if step.plain:
        return [values[a.index] if type(a) is _Slot else a for a in step.args], step.kwargs
    args, kwargs = pytree.tree_map(
        lambda a: values[a.index] if type(a) is _Slot else a, (list(step.args), step.kwargs)
    )
    return args, kwargs


def _edited(
    value: Tensor, edit: Edit, step: Step, position: int, made: dict[tuple[int, int], Tensor]
) -> Tensor:
    """The operand's replacement; one tensor quantized alike for several readers is made once."""
    if isinstance(edit, Tensor):
        return edit
    source = step.args[position]
    if type(source) is not _Slot:
        return edit(value)
    key = (source.index, id(edit))
    if key not in made:
        made[key] = edit(value)
    return made[key]


def apply_edits(args: Sequence[Any], edits: Sequence[tuple[int, Edit]]) -> list[Any]:
    """Arguments with some of them replaced."""
    new = list(args)
    for position, edit in edits:
        new[position] = edit if isinstance(edit, Tensor) else edit(new[position])
    return new
