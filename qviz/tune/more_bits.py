"""More bits for some ops: what an op loses below 8 bits, paid back in bits instead of cleverness.

Meant for single ops (``ops=``): which ops deserve more bits within a size is the question of bit
allocation. Activation ranges are found anew, for the wider grid.
"""

from __future__ import annotations

from qviz.errors import TuneError
from qviz.graph import Operand
from qviz.recipe import Override, resolve
from qviz.tune.step import Change, Option, Step, Subject, reranged

OPTIONS = (
    Option("weight_bits", 8, "bits of the weights; what has as many already stays", 2, 8),
    Option("activation_bits", 8, "bits of the activations, likewise", 2, 8),
)


def sites(subject: Subject) -> tuple[str, ...]:
    """Ops with an int8 operand below 8 bits, those with the fewest bits first."""
    found: dict[str, int] = {}
    for operand, bits in _narrow(subject, 8, 8):
        found[operand.op] = min(bits, found.get(operand.op, 8))
    return tuple(sorted(found, key=lambda op: found[op]))


def apply(subject: Subject, *, weight_bits: int = 8, activation_bits: int = 8) -> Step:
    """Give every quantized operand of the ops at least so many bits.

    Args:
        subject: what to tune; weights stay as they are.
        weight_bits: of weights.
        activation_bits: of activations.

    Raises:
        TuneError: all of them have as many already.
    """
    narrow = _narrow(subject, weight_bits, activation_bits)
    if not narrow:
        raise TuneError(
            "more bits",
            f"no quantized operand has fewer than {weight_bits} (weights) or "
            f"{activation_bits} bits (activations)",
            "Leave the op in float instead",
        )
    widths = {"weight": weight_bits, "activation": activation_bits}
    recipe, changes = subject.recipe, []
    known = {o.target: o for o in recipe.overrides}
    for operand, bits in narrow:
        before = known.get(operand.name, Override(operand.name))
        wide = widths[operand.kind]
        recipe = recipe.override(Override(operand.name, before.int8, wide))
        changes.append(Change(operand.name, "bits", bits, wide, "bits"))
    tensors = tuple(o.tensor for o, _ in narrow if o.kind == "activation")
    return Step(reranged(subject, None, recipe, tensors), None, tuple(changes))


def _narrow(subject: Subject, weight_bits: int, activation_bits: int) -> list[tuple[Operand, int]]:
    """Quantized operands with fewer bits, each with its own."""
    decisions = resolve(subject.recipe, subject.graph)
    least = {"weight": weight_bits, "activation": activation_bits}
    return [
        (o, decisions[o.name].bits)
        for o in subject.graph.operands.values()
        if subject.wants(o.op) and decisions[o.name].int8 and decisions[o.name].bits < least[o.kind]
    ]
