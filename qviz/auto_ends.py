"""The recipe that a variant starts from: everything at the bits asked for, or the ends at 8.

Below 8 bits the first and the last layer cost far more accuracy than they save: they are kept at 8
bits (Hubara et al. 2021, arXiv:2006.10518, section 6, as in CalibTIP's configurations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qviz.recipe import Override, Recipe
from qviz.search.layers import layers_of
from qviz.session import Session
from qviz.tune.step import bits_of


def recipe_for(
    session: Session,
    calibrator: str,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    per_channel: bool = True,
    ends_at_8: bool = False,
    skip: Sequence[str] = (),
) -> Recipe:
    """Everything int8 with the ranges of one calibrator.

    Args:
        session: the model and its data.
        calibrator: a spec.
        weight_bits: 2 to 8.
        activation_bits: 2 to 8.
        per_channel: False is one scale per weight tensor.
        ends_at_8: the first and last layers keep 8 bits.
        skip: ops left in float.
    """
    made = session.recipe(
        calibrator,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        per_channel=per_channel,
    ).skip(*skip)
    if not ends_at_8 or (weight_bits, activation_bits) == (8, 8):
        return made
    ends = [n for la in layers_of(session.graph, made) if la.end for n in la.ops]
    raised = made.override(*(Override(name, bits=8) for name in ends))
    wide = session.recipe(calibrator, per_channel=per_channel).range_of
    bits = bits_of(raised, session.graph)
    ranges = [
        wide[r.tensor] if bits.get(r.tensor) == 8 and r.tensor in wide else r for r in raised.ranges
    ]
    return replace(raised, ranges=tuple(ranges))
