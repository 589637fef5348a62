"""Recipe: the decision which operands are int8, at how many bits, with which ranges.

Floats, ints and strings only, so that equality, hash, difference and JSON are free. A recipe is
plain data: ``resolve`` applies it to a graph and says of every operand whether it is int8, and if
not, why.

Precedence, later wins: default, ``kind:weight`` / ``kind:activation``, ``type:conv2d``, op name,
operand name.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from types import NoneType
from typing import Any, TypeVar

from qviz.affine import Grid
from qviz.errors import RangeError, RecipeError
from qviz.graph import Graph, Op, Operand
from qviz.profiles import profile

FORMAT = "qviz-recipe"
VERSION = 1

#: Why an operand of an int8 op is float although nobody asked for it.
FUSED = "added before rounding: the profile quantizes the other branch"


@dataclass(frozen=True)
class TensorRange:
    """The clip range of one activation tensor, in the tensor's units."""

    tensor: str
    lo: float
    hi: float
    calibrator: str


@dataclass(frozen=True)
class Override:
    """One exception to the default: ``target`` is int8 or float, or has other bits.

    Attributes:
        target: an operand, an op, ``type:NAME``, ``kind:weight`` or ``kind:activation``.
        int8: True or False; None leaves it as it is.
        bits: bit width; None leaves it as it is.
    """

    target: str
    int8: bool | None = None
    bits: int | None = None


@dataclass(frozen=True)
class Recipe:
    """Which operands are int8, at how many bits, with which ranges.

    Attributes:
        profile: the engine whose rules the simulation follows (see ``profiles.py``).
        calibrator: the calibrator most ranges came from; each range names its own.
        int8: whether an operand without an override is int8.
        per_channel: one weight scale per output channel; False is one per weight tensor.
        weight_bits: default bit width of weights, 2 to 8.
        activation_bits: default bit width of activations, 2 to 8.
        ranges: clip range of each activation tensor.
        overrides: the exceptions.
        weights: key of the tuned weights it was made for (``weights.py``); "" is the model's own.
    """

    profile: str = "cuda"
    calibrator: str = "max"
    int8: bool = True
    per_channel: bool = True
    weight_bits: int = 8
    activation_bits: int = 8
    ranges: tuple[TensorRange, ...] = ()
    overrides: tuple[Override, ...] = field(default=())
    weights: str = ""

    @cached_property
    def range_of(self) -> Mapping[str, TensorRange]:
        """Ranges by tensor name."""
        return {r.tensor: r for r in self.ranges}

    def skip(self, *names: str) -> Recipe:
        """The same recipe with these ops or operands left in float; their bits are kept."""
        return self._switch(names, int8=False)

    def _switch(self, names: Iterable[str], *, int8: bool) -> Recipe:
        known = {o.target: o for o in self.overrides}
        return self.override(*(replace(known.get(n, Override(n)), int8=int8) for n in names))

    def override(self, *overrides: Override) -> Recipe:
        """The same recipe with these overrides; an earlier one of the same target goes."""
        new = {o.target for o in overrides}
        kept = tuple(o for o in self.overrides if o.target not in new)
        return replace(self, overrides=kept + overrides)

    def unskip(self, *names: str) -> Recipe:
        """The same recipe without a say in whether these are int8; their bits are kept."""
        changed = (replace(o, int8=None) if o.target in names else o for o in self.overrides)
        kept = tuple(o for o in changed if o.int8 is not None or o.bits is not None)
        return replace(self, overrides=kept)

    def only(self, *names: str) -> Recipe:
        """The same ranges and bits, with nothing int8 but these ops or operands."""
        bits = tuple(replace(o, int8=None) for o in self.overrides if o.bits is not None)
        return replace(self, int8=False, overrides=bits)._switch(names, int8=True)

    def with_range(self, tensor: str, lo: float, hi: float, calibrator: str = "fixed") -> Recipe:
        """The same recipe with another range for one tensor.

        Raises:
            RangeError: an end is NaN or infinite, or ``lo`` is above ``hi``.
        """
        if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
            raise RangeError(
                f"range of {tensor}", f"{lo:g} to {hi:g} is none", "Give two numbers, lower first"
            )
        new = TensorRange(tensor, float(lo), float(hi), calibrator)
        if tensor not in self.range_of:
            return replace(self, ranges=(*self.ranges, new))
        return replace(self, ranges=tuple(new if r.tensor == tensor else r for r in self.ranges))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Targets that an override leaves in float."""
        return tuple(o.target for o in self.overrides if o.int8 is False)

    def to_json(self) -> str:
        """JSON text of the schema ``qviz/schemas/recipe.schema.json``."""
        plain = {"format": FORMAT, "version": VERSION, **asdict(self)}
        if not self.weights:  # a file that says nothing of weights reads as it always has
            del plain["weights"]
        return json.dumps(plain, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, name: str = "recipe") -> Recipe:
        """Read what ``to_json`` wrote.

        Raises:
            RecipeError: it is not a recipe, or one of a later version.
        """
        return _parse(text, name)


@dataclass(frozen=True)
class Decision:
    """What a recipe means for one operand: int8 at ``bits``, or float with a reason.

    ``by_choice`` tells a float that an override asked for from one the profile or data imposes.
    """

    int8: bool
    bits: int
    reason: str | None = None
    by_choice: bool = False


def resolve(recipe: Recipe, graph: Graph) -> dict[str, Decision]:
    """Apply a recipe to a graph: one Decision per operand, in execution order.

    Raises:
        RecipeError: it names an op, operand, type or tensor that the graph does not have, or a
            bit width outside 2 to 8.
    """
    _check_names(recipe, graph)
    table = {o.target: o for o in recipe.overrides}
    rules = profile(recipe.profile)
    decisions: dict[str, Decision] = {}
    for op in graph.quantizable:
        for operand in op.operands:
            chosen = _choice(recipe, table, op, operand)
            reason = None
            if op.type not in rules.types:
                reason = f"profile {rules.name} has no int8 {op.type}"
            elif op.type == "add" and rules.residual == "identity" and operand.after_matmul:
                reason = FUSED
            elif operand.kind == "activation" and operand.tensor not in recipe.range_of:
                reason = "never saw data: no range"
            if chosen.int8 and reason is not None:
                chosen = Decision(False, chosen.bits, reason)
            decisions[operand.name] = chosen
    return decisions


def activation_grid(recipe: Recipe, graph: Graph, tensor: str, bits: int) -> Grid:
    """Integer grid of an activation tensor at a bit width, by the recipe's profile."""
    info = graph.tensors.get(tensor)
    rules = profile(recipe.profile)
    return rules.activation_grid(bits, nonnegative=info is not None and info.nonnegative)


def _choice(recipe: Recipe, table: Mapping[str, Override], op: Op, operand: Operand) -> Decision:
    int8 = recipe.int8
    bits = recipe.weight_bits if operand.kind == "weight" else recipe.activation_bits
    for target in (f"kind:{operand.kind}", f"type:{op.type}", op.name, operand.name):
        if (override := table.get(target)) is not None:
            int8 = int8 if override.int8 is None else override.int8
            bits = bits if override.bits is None else override.bits
    if int8:
        return Decision(True, bits)
    return Decision(False, bits, "float by choice", by_choice=True)


def _check_names(recipe: Recipe, graph: Graph) -> None:
    operands = graph.operands
    known = {f"type:{op.type}" for op in graph.ops.values()} | {"kind:weight", "kind:activation"}
    known |= set(operands) | {op.name for op in graph.quantizable}
    for override in recipe.overrides:
        if override.target not in known:
            raise _unknown(override.target, "op or operand", known, graph)
    for tensor in recipe.range_of:
        if tensor not in graph.tensors:
            raise _unknown(tensor, "tensor", graph.tensors, graph)
    widths = {o.bits for o in recipe.overrides} | {recipe.weight_bits, recipe.activation_bits}
    for bits in widths - {None}:
        if bits not in profile(recipe.profile).bits:
            raise RecipeError(f"{bits} bits", "not a width from 2 to 8", "Choose 2 to 8")


def _unknown(name: str, what: str, known: Iterable[str], graph: Graph) -> RecipeError:
    if name in graph.ops:
        reason = graph.ops[name].reason or "it only moves values"
        return RecipeError(name, f"is not quantizable: {reason}", "Leave it out of the recipe")
    near = difflib.get_close_matches(name, list(known), 3, 0.4)
    cure = f"Did you mean {' or '.join(near)}" if near else "List the names with qviz info"
    return RecipeError(name, f"{graph.name} has no such {what}", cure)


def _parse(text: str, name: str) -> Recipe:
    def wrong(reason: str) -> RecipeError:
        return RecipeError(name, reason, "Write it with recipe.to_json() or qviz run")

    try:
        data: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise wrong(f"not JSON: {error.msg} in line {error.lineno}") from None
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise wrong(f'not a recipe: "format" is not "{FORMAT}"')
    version = data.pop("version", None)
    if version != VERSION:
        raise wrong(f"version {version} is not {VERSION}, the one this qviz reads")
    ranges = _records(data.pop("ranges", []), "ranges", TensorRange, wrong)
    overrides = _records(data.pop("overrides", []), "overrides", Override, wrong)
    recipe = _record(data, "", Recipe, wrong)
    for r in ranges:
        if not (math.isfinite(r.lo) and math.isfinite(r.hi) and r.lo <= r.hi):
            raise wrong(f"the range of {r.tensor} is {r.lo} to {r.hi}")
    for what, names in (
        ("range", [r.tensor for r in ranges]),
        ("override", [o.target for o in overrides]),
    ):
        twice = [n for n in names if names.count(n) > 1]
        if twice:
            raise wrong(f"{twice[0]} has more than one {what}")
    return replace(recipe, ranges=ranges, overrides=overrides)


T = TypeVar("T", Recipe, TensorRange, Override)
Wrong = Callable[[str], RecipeError]

#: What a field's annotation means in JSON, in words.
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)),
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool | None": ("true, false or null", (bool, NoneType)),
    "int | None": ("a whole number or null", (int, NoneType)),
}


def _records(value: object, where: str, kind: type[T], wrong: Wrong) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise wrong(f"{where} is not a list")
    return tuple(_record(v, f"{where}[{i}]", kind, wrong) for i, v in enumerate(value))


def _record(value: object, where: str, kind: type[T], wrong: Wrong) -> T:
    """A dataclass of plain values from a JSON object, every field checked."""
    if not isinstance(value, dict):
        raise wrong(f"{where} is not an object")
    stem = f"{where}." if where else ""
    known = {f.name: f for f in fields(kind) if f.type in _KINDS}
    for key in value.keys() - known.keys():
        raise wrong(f"there is no field {stem}{key}")
    for key, field_ in known.items():
        if key not in value and field_.default is MISSING:
            raise wrong(f"{stem}{key} is missing")
        if key in value and not _is(value[key], *_KINDS[str(field_.type)][1]):
            raise wrong(f"{stem}{key} is not {_KINDS[str(field_.type)][0]}")
    plain: dict[str, Any] = {
        key: float(v) if known[key].type == "float" else v for key, v in value.items()
    }
    return kind(**plain)


def _is(value: object, *kinds: type) -> bool:
    # bool is an int in Python, not in JSON
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)
