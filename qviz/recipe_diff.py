"""What one recipe decides otherwise than another, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from qviz.recipe import Override, Recipe, TensorRange

Kind = Literal["profile", "calibrator", "bits", "scale", "default", "weights", "int8", "range"]

#: What an override's target is called when it stands for many operands.
_MANY = {"kind:weight": "all weights", "kind:activation": "all activations"}


@dataclass(frozen=True)
class Difference:
    """One thing that is otherwise.

    Attributes:
        kind: what is decided.
        target: the op, operand or tensor that it is about; "" for the whole recipe.
        now: the decision of the recipe, in words.
        before: that of the recipe it is compared with.
        text: both in one sentence.
    """

    kind: Kind
    target: str
    now: str
    before: str
    text: str


def differences(recipe: Recipe, base: Recipe) -> tuple[Difference, ...]:
    """What ``recipe`` decides otherwise than ``base``: whole first, then by op, then ranges.

    Ranges that are others only because the calibrator, the profile, the bits or the weights are
    others are not listed one by one.
    """
    return (*_whole(recipe, base), *_overrides(recipe, base), *_ranges(recipe, base))


def _whole(recipe: Recipe, base: Recipe) -> Iterator[Difference]:
    def scales(one: Recipe) -> str:
        return "one scale per output channel" if one.per_channel else "one scale per tensor"

    pairs: tuple[tuple[Kind, str, str, str], ...] = (
        ("profile", "profile", recipe.profile, base.profile),
        ("calibrator", "calibrator", source(recipe.calibrator), source(base.calibrator)),
        ("bits", "weights", f"{recipe.weight_bits} bit", f"{base.weight_bits} bit"),
        ("bits", "activations", f"{recipe.activation_bits} bit", f"{base.activation_bits} bit"),
        ("scale", "weights", scales(recipe), scales(base)),
        ("default", "what is not named", _kind(recipe.int8), _kind(base.int8)),
        ("weights", "values of weights", _values(recipe), _values(base)),
    )
    for kind, what, now, before in pairs:
        if now != before:
            yield Difference(kind, "", now, before, f"{what}: {now} instead of {before}")


def _values(recipe: Recipe) -> str:
    return f"tuned ({recipe.weights})" if recipe.weights else "the model's own"


def _overrides(recipe: Recipe, base: Recipe) -> Iterator[Difference]:
    ours = {o.target: o for o in recipe.overrides}
    theirs = {o.target: o for o in base.overrides}
    for target in dict.fromkeys((*ours, *theirs)):
        now, before = ours.get(target, Override(target)), theirs.get(target, Override(target))
        name = called(target)
        if now.int8 != before.int8:
            said = _said(now.int8, recipe), _said(before.int8, base)
            text = f"{name} left in float"
            if now.int8 is not False:
                text = f"{name}: {said[0]} instead of {said[1]}"
            yield Difference("int8", target, *said, text)
        if now.bits != before.bits:
            said = _bits(now.bits), _bits(before.bits)
            yield Difference("bits", target, *said, f"{name}: {said[0]} instead of {said[1]}")


def _ranges(recipe: Recipe, base: Recipe) -> Iterator[Difference]:
    alike = (recipe.calibrator, recipe.profile, recipe.activation_bits, recipe.weights) == (
        base.calibrator,
        base.profile,
        base.activation_bits,
        base.weights,
    )
    for tensor in dict.fromkeys((*recipe.range_of, *base.range_of)):
        now, before = recipe.range_of.get(tensor), base.range_of.get(tensor)
        if now is None or before is None:
            same = False
        else:
            implied = not alike and _of_calibrator(now, recipe) and _of_calibrator(before, base)
            same = implied or (now.lo, now.hi) == (before.lo, before.hi)
        if not same:
            said = _range(now, before, recipe), _range(before, now, base)
            text = f"range of {tensor}: {said[0]} instead of {said[1]}"
            yield Difference("range", tensor, *said, text)


def called(target: str) -> str:
    """An override's target for a person: ``all weights``, ``all conv2d ops``, ``fc``."""
    if target.startswith("type:"):
        return f"all {target.removeprefix('type:')} ops"
    return _MANY.get(target, target)


def source(calibrator: str) -> str:
    """Where a range comes from: ``mse``, ``drawn by hand``."""
    return "drawn by hand" if calibrator.partition(":")[0] == "fixed" else calibrator


def limits(lo: float, hi: float, digits: int = 3) -> str:
    """A range in words: ``±3.2``, or ``-1 to 3.2``."""
    if lo == -hi:
        return f"±{hi:.{digits}g}"
    return f"{lo:.{digits}g} to {hi:.{digits}g}"


def _of_calibrator(one: TensorRange, recipe: Recipe) -> bool:
    return one.calibrator == recipe.calibrator


def _range(one: TensorRange | None, other: TensorRange | None, recipe: Recipe) -> str:
    if one is None:
        return "none"
    text = limits(one.lo, one.hi)
    if other is not None and text == limits(other.lo, other.hi):
        text = limits(one.lo, one.hi, 9)  # they differ after the third digit
    return text if _of_calibrator(one, recipe) else f"{text} ({source(one.calibrator)})"


def _kind(int8: bool) -> str:
    return "int8" if int8 else "float"


def _said(int8: bool | None, recipe: Recipe) -> str:
    return f"{_kind(recipe.int8)} like the rest" if int8 is None else _kind(int8)


def _bits(bits: int | None) -> str:
    return "the default bits" if bits is None else f"{bits} bit"


def sentence(found: Sequence[Difference], name: str) -> str:
    """How many differences there are, in a sentence."""
    count = len(found)
    if not count:
        return f"The same as {name}."
    return f"{count} {'difference' if count == 1 else 'differences'} from {name}."
