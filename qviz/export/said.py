"""What a file of another tool says of a model, under its own names: what every importer makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qviz.profiles import profile
from qviz.recipe import Recipe


@dataclass(frozen=True)
class Span:
    """The range of one activation.

    Attributes:
        lo: lower end, in the tensor's units; equal to -hi for a symmetric grid known by its scale.
        hi: upper end.
        bits: width of the codes.
        affine: the file gives it a zero point.
        calibrator: where it comes from, None if the file does not say.
    """

    lo: float
    hi: float
    bits: int = 8
    affine: bool = False
    calibrator: str | None = None


def span_of(scale: float, offset: int, bits: int, base: Recipe) -> Span:
    """The range of a grid ``x = (code + offset) * scale`` with the codes 0 ... 2^bits - 1.

    With the offset in the middle it is a symmetric grid, whose range is plus and minus amax; under
    a base with zero points its ends are, so that the same grid comes of it.
    """
    half = 1 << (bits - 1)
    if offset == -half and profile(base.profile).symmetric:
        return Span(-scale * (half - 1), scale * (half - 1), bits)
    ends = offset * scale, (offset + 2 * half - 1) * scale
    return Span(*ends, bits, affine=offset != -half)


@dataclass(frozen=True)
class Scales:
    """The grid of one weight.

    Attributes:
        values: size of a step, of each channel or of the whole weight; empty if it is not said.
        bits: width of the codes; None is a weight that the file leaves in float.
    """

    values: tuple[float, ...]
    bits: int | None = 8


@dataclass(frozen=True)
class Said:
    """What a file says, under its own names.

    Attributes:
        tool: becomes the calibrator's name of its ranges.
        by: names are those of tensors and parameters, or those of the ops that read them.
        ranges: of activations, by name.
        weights: by name; None if the format says nothing of weights.
        floats: ops or operands that it leaves in float.
        whole: an op that is not int8 with all its operands is float.
        per_channel: whether weights have one scale per channel; None is as the scales are.
    """

    tool: str
    by: Literal["tensor", "op"]
    ranges: Mapping[str, Span]
    weights: Mapping[str, Scales] | None = None
    floats: Sequence[str] = ()
    whole: bool = False
    per_channel: bool | None = None
