"""QATModel: a captured model as an ordinary nn.Module whose weights train under a recipe.

    model = prepare(simulator, recipe)           # ranges="fixed", "pact" or "lsq"
    for x, y in loader:                          # any loop: plain PyTorch, Lightning, accelerate
        loss = cross_entropy(model(x), y)
        loss.backward(); optimizer.step(); optimizer.zero_grad()
    step = finish(model)                         # new weights, new recipe: exported like any other

Every operand that the recipe makes int8 is fake-quantized in the forward pass, with the gradient of
the straight-through estimator (Wu et al. 2020, arXiv 2004.09602, eq. 13); the weights behind it
stay float32. What runs is the captured graph, in evaluation mode for ever: batch norm is folded
into the weights and thereby frozen - where it was left unfolded its statistics are frozen all the
same - and dropout is off. So the model that is trained is the one that is exported, and
``model.train()`` changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qviz.affine import Grid, QuantParams, fake_quantize, symmetric_params, weight_params
from qviz.data import Batch
from qviz.errors import NotFiniteError, TuneError
from qviz.execute import Edit, Program
from qviz.graph import Graph, Operand
from qviz.recipe import Recipe, TensorRange, activation_grid, resolve
from qviz.simulate import FakeQuantize, Simulator
from qviz.tune.qat_options import Ranges
from qviz.tune.qat_parameters import slots_of, stored, trainable
from qviz.tune.qat_ranges import LimitRange, StepRange, WeightStep, params_of
from qviz.tune.step import bits_of

CPU = torch.device("cpu")


class QATModel(nn.Module):
    """A captured model that can be trained under a recipe; ``prepare`` makes it.

    ``forward`` takes and returns what the model does. Without gradients and on the CPU it gives,
    bit for bit, what simulating the finished recipe gives.

    Attributes:
        graph: the model it started from; never changed.
        recipe: the recipe it started from.
        weights: the trained weights and biases, under their names in ``graph.module``.
        learned: the ranges that are trained, if any, by tensor or weight operand, as ``_key``
            writes their names.
        frozen: float parameters of the graph that are not trained: statistics of batch norms,
            position embeddings, masks ...
    """

    def __init__(
        self,
        simulator: Simulator,
        recipe: Recipe,
        ranges: Ranges = "fixed",
        ops: Sequence[str] | None = None,
    ) -> None:
        """Use ``prepare``."""
        super().__init__()
        self.graph, self.recipe = simulator.graph, recipe
        self._quick, self._plain = simulator.program, simulator.differentiable
        self._elsewhere: tuple[torch.device, Program] | None = None
        self._names = trainable(self.graph, ops)
        self.frozen = tuple(n for n in stored(self.graph) if n not in self._names)
        self.weights, self.learned = nn.Module(), nn.ModuleDict()
        for name in self._names:
            _place(self.weights, name, nn.Parameter(self._quick.parameter(name).clone()))
        self._slots = {n: slots for n, slots in slots_of(self._plain).items() if n in self._names}
        self._kept: list[int] = []
        self._derived = self._set_constants()
        self._operands = self._quantized()
        self._limits = {o.name: self._limit(o, bits) for o, bits in self._operands}
        self._fixed: dict[tuple[str, int, torch.device], FakeQuantize] = {}
        if ranges != "fixed":
            self._learn(ranges, ops)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:  # noqa: ANN401 - what the model returns
        """What the model returns, every int8 operand rounded to its grid.

        Raises:
            DataError: an input of the model is missing.
            ShapeError: an input has another shape or dtype than the model was captured with.
            TuneError: training has made a weight or range unusable.
        """
        device, grad = self.device, torch.is_grad_enabled()
        program = self._quick if device == CPU and not grad else self._program(device)
        size = len([*args, *kwargs.values()][0])
        values = program.inputs(Batch(args, kwargs, None, size), device)
        self._fill(values, device)
        results = program.run(values, self._edits(program, device), grad=grad)
        return pytree.tree_unflatten(results, self.graph.output_spec)

    def ranges(self) -> dict[str, TensorRange]:
        """The learned ranges of activations as they stand, by tensor."""
        found = (m.range() for m in self.learned.values() if isinstance(m, LimitRange | StepRange))
        return {r.tensor: r for r in found}

    def limits(self) -> dict[str, dict[int, Tensor]]:
        """The learned limits of weights as they stand: operand -> bits -> amax."""
        steps = (m for m in self.learned.values() if isinstance(m, WeightStep))
        return {m.operand: {m.grid.bits: m.limit.cpu()} for m in steps}

    def tuned(self) -> dict[str, Tensor]:
        """The weights and biases as they stand, by their names in the graph."""
        return {n: _at(self.weights, n).detach() for n in self._names}

    def _quantized(self) -> list[tuple[Operand, int]]:
        decisions = resolve(self.recipe, self.graph)
        operands = self.graph.operands.values()
        return [(o, decisions[o.name].bits) for o in operands if decisions[o.name].int8]

    def _limit(self, operand: Operand, bits: int) -> Tensor | None:
        axis = operand.axis if self.recipe.per_channel else None
        limit = self.graph.limits.get(operand.name, {}).get(bits)
        fits = operand.kind == "weight" and limit is not None and limit.dim() == (axis is not None)
        return limit if fits else None

    def _learn(self, ranges: Ranges, ops: Sequence[str] | None) -> None:
        bits = bits_of(self.recipe, self.graph)
        others = {o.name for o, _ in self._operands if ops is not None and o.op not in ops}
        given = {o.tensor for o, _ in self._operands if o.name in others}
        for tensor, width in bits.items():
            chosen = self.recipe.range_of[tensor]
            if tensor in given or chosen.calibrator.partition(":")[0] == "fixed":
                continue  # other ops read it too, or a person set it
            if chosen.lo == chosen.hi == 0:
                continue  # nothing but zeros was seen: there is no step to learn
            grid = activation_grid(self.recipe, self.graph, tensor, width)
            kind = LimitRange if ranges == "pact" else StepRange
            self.learned[_key(tensor)] = kind(chosen, grid)
        for operand, width in self._operands if ranges == "lsq" else ():
            if operand.kind == "weight" and operand.name not in others:
                value = self._quick.parameter(operand.tensor)
                params = self._weight_params(operand, width, value)
                self.learned[_key(operand.name)] = WeightStep(operand.name, params, width)

    def _weight_params(self, operand: Operand, bits: int, value: Tensor) -> QuantParams:
        axis = operand.axis if self.recipe.per_channel else None
        limit = self._limits[operand.name]
        if limit is not None:
            return symmetric_params(limit.to(value.device), Grid(bits, narrow=True), axis)
        try:
            return weight_params(value, bits, axis)
        except NotFiniteError:
            raise TuneError(
                f"weight {operand.tensor}",
                "training made it NaN or infinite",
                "Lower the learning rate",
            ) from None

    def _edits(self, program: Program, device: torch.device) -> dict[int, list[tuple[int, Edit]]]:
        made: dict[str, _Learned] = {
            name: _Learned(module, self.recipe, self.graph)
            for name, module in self.learned.items()
            if not isinstance(module, WeightStep)
        }
        found: dict[int, list[tuple[int, Edit]]] = {}
        for operand, bits in self._operands:
            if operand.kind == "weight":
                edit: Edit = self._weight(operand, bits)
            elif _key(operand.tensor) in made:
                edit = made[_key(operand.tensor)].at(bits, device)
            else:
                edit = self._activation(operand.tensor, bits, device)
            found.setdefault(program.step_of_op[operand.op], []).append((operand.position, edit))
        return found

    def _weight(self, operand: Operand, bits: int) -> Tensor:
        value = self._value(operand.tensor)
        key = _key(operand.name)
        if key in self.learned:
            quantized: Tensor = self.learned[key].quantize(value)  # type: ignore[operator]
            return quantized
        return fake_quantize(value, self._weight_params(operand, bits, value.detach()))

    def _value(self, name: str) -> Tensor:
        if name in self._names:
            return _at(self.weights, name)
        return self._plain.parameter(name).to(self.device)

    def _activation(self, tensor: str, bits: int, device: torch.device) -> FakeQuantize:
        key = (tensor, bits, device)
        if key not in self._fixed:
            grid = activation_grid(self.recipe, self.graph, tensor, bits)
            chosen = self.recipe.range_of[tensor]
            self._fixed[key] = FakeQuantize(params_of(chosen, grid, device))
        return self._fixed[key]

    def _set_constants(self) -> list[fx.Node]:
        """Keep what depends on nothing trained as buffers; return the calls that do."""
        program, derived = self._plain, []
        values: dict[int, Any] = {}
        moving: set[fx.Node] = set()
        for node in self.graph.module.graph.nodes:
            slot = program.slot_of[node.name]
            if node.op == "get_attr":
                values[slot] = program.parameter(str(node.target))
                moving |= {node} if node.target in self._names else set()
            elif node.op != "call_function" or slot in program.step_of_slot:
                continue
            elif moving.intersection(node.all_input_nodes):
                moving.add(node)
                derived.append(node)
            else:
                with torch.no_grad():
                    values[slot] = self._call(node, values, CPU)
            if node not in moving and isinstance(values[slot], Tensor):
                self.register_buffer(f"constant{slot}", values[slot], persistent=False)
                self._kept.append(slot)
        return derived

    def _fill(self, values: list[Any], device: torch.device) -> None:
        """Put parameters, constants and what is computed from them into the slots."""
        for slot in self._kept:
            values[slot] = getattr(self, f"constant{slot}")
        for name, slots in self._slots.items():
            for slot in slots:
                values[slot] = _at(self.weights, name)
        for node in self._derived:
            values[self._plain.slot_of[node.name]] = self._call(node, values, device)

    def _call(self, node: fx.Node, values: Any, device: torch.device) -> Any:  # noqa: ANN401
        args, kwargs = fx.node.map_arg(
            (node.args, _moved(node.kwargs, device)),
            lambda n: values[self._plain.slot_of[n.name]],
        )
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _program(self, device: torch.device) -> Program:
        """The plain program, with tensors that it makes itself made on the device."""
        if device == CPU:
            return self._plain
        if self._elsewhere is None or self._elsewhere[0] != device:
            program = Program(self.graph, plain=True)
            program.steps = [replace(s, kwargs=_moved(s.kwargs, device)) for s in program.steps]
            self._elsewhere = (device, program)
        return self._elsewhere[1]


def prepare(
    simulator: Simulator | Graph,
    recipe: Recipe,
    ranges: Ranges = "fixed",
    *,
    ops: Sequence[str] | None = None,
) -> QATModel:
    """A captured model ready for any training loop, rounded as the recipe says.

    Its batch norms are frozen: folded into the weights (Wu et al. 2020, eq. 16), or, in a graph
    captured with ``fold_batch_norm=False``, run with the statistics they came with. Only the
    gradients differ from ordinary training: straight through the rounding (eq. 13).

    Args:
        simulator: of the graph to start from, or that graph.
        recipe: which operands are int8, at how many bits, with which ranges; start from the best
            calibrated one.
        ranges: ``fixed`` keeps the calibrated ranges of activations, and each weight's is its
            largest magnitude at every step (or its limit, where the graph has one); ``pact``
            learns the clipping limits of activations, ``lsq`` the steps of activations and weights.
        ops: train only the parameters of these ops, and learn only ranges that no other int8 op
            reads; None trains all. Ranges that a person set (calibrator ``fixed``) stay.

    Returns:
        A module on the CPU; its parameters are copies, so the graph stays as it is.

    Raises:
        RecipeError: the recipe does not fit the graph.
        TuneError: there is nothing to train.
    """
    made = QATModel(
        simulator if isinstance(simulator, Simulator) else Simulator(simulator), recipe, ranges, ops
    )
    if not made.tuned():
        where = made.graph.name if ops is None else ", ".join(ops)
        raise TuneError(where, "has no weights that could be trained", "Name ops that have some")
    return made


class _Learned:
    """One learned range during one forward pass: its numbers are read once."""

    def __init__(self, module: nn.Module, recipe: Recipe, graph: Graph) -> None:
        assert isinstance(module, LimitRange | StepRange)
        self._module, self._recipe, self._graph = module, recipe, graph
        self._chosen = module.range()
        self._edits: dict[int, Edit] = {}

    def at(self, bits: int, device: torch.device) -> Edit:
        """The edit of an operand at a bit width; the same one for every reader."""
        if bits not in self._edits:
            grid = activation_grid(self._recipe, self._graph, self._chosen.tensor, bits)
            params, module = params_of(self._chosen, grid, device), self._module
            self._edits[bits] = lambda x: module.quantize(x, params)
        return self._edits[bits]


def _place(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None
        root = child
    root.register_parameter(last, parameter)


def _at(root: nn.Module, name: str) -> Tensor:
    value: Any = root
    for part in name.split("."):
        value = getattr(value, part)
    return cast(Tensor, value)


def _moved(kwargs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: device if k == "device" and v is not None else v for k, v in kwargs.items()}


def _key(name: str) -> str:
    key = name.replace(".", "/")
    # a ModuleDict takes no dots, and no name of its own methods, which a layer may have ("keys")
    return f"/{key}" if hasattr(nn.ModuleDict, key) else key
