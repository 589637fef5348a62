"""What a weight takes in every form it can be stored in, in bytes.

    float     four bytes per weight
    int8      a byte per code
    packed    two codes per byte where they have at most 4 bits: what a checkpoint holds
    indexed   each different code by its number, in as few bits as all numbers need, and a list of
              the codes: what a codebook or a subset of steps is stored as without entropy coding
    coded     Huffman-coded, of the dense codes or of the values between zeros (relative_index.py),
              whichever is smaller; lengths of real streams, tables included
    entropy   the bound for dense codes of these frequencies, which no code of single weights beats

All but the first include the float32 scales, one per output channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from qviz.affine import quantize
from qviz.graph import Operand
from qviz.recipe import Recipe, resolve
from qviz.simulate import Simulator
from qviz.tune import entropy_coding, relative_index
from qviz.tune.entropy_coding import Codes

#: Widest codes of which a byte holds two.
PACKED_BITS = 4
FLOAT = 4


@dataclass(frozen=True)
class WeightSize:
    """Sizes of one weight, or of several together.

    Attributes:
        name: of the weight.
        bits: of its grid; 0 for several that differ.
        count: weights.
        zeros: weights that are zero.
        distinct: different codes; the largest number of them for several weights.
        float_bytes: this and the following: see the module.
        int8_bytes: likewise.
        packed_bytes: likewise.
        indexed_bytes: likewise.
        coded_bytes: likewise.
        entropy_bytes: likewise.
        form: what ``coded_bytes`` is of: ``dense`` or ``sparse``; ``mixed`` for several.
    """

    name: str
    bits: int
    count: int
    zeros: int
    distinct: int
    float_bytes: int
    int8_bytes: int
    packed_bytes: int
    indexed_bytes: int
    coded_bytes: int
    entropy_bytes: int
    form: str

    @property
    def smallest(self) -> int:
        """Bytes of the smallest form that can be stored."""
        return min(self.packed_bytes, self.indexed_bytes, self.coded_bytes)


def weight_size(name: str, codes: Codes, bits: int, scales: int) -> WeightSize:
    """Sizes of one weight.

    Args:
        name: of the weight.
        codes: integers of at most 8 bits, any shape.
        bits: of their grid.
        scales: number of float32 scales stored beside them.
    """
    beside = FLOAT * scales
    count = codes.size
    distinct = len(np.unique(codes))
    width = max(distinct - 1, 0).bit_length()
    forms = {
        "dense": entropy_coding.encoded_bytes(codes),
        "sparse": relative_index.encoded_bytes(codes),
    }
    form = min(forms, key=lambda name: forms[name])
    return WeightSize(
        name=name,
        bits=bits,
        count=count,
        zeros=count - int(np.count_nonzero(codes)),
        distinct=distinct,
        float_bytes=FLOAT * count,
        int8_bytes=count + beside,
        packed_bytes=((count + 1) // 2 if bits <= PACKED_BITS else count) + beside,
        indexed_bytes=-(-count * width // 8) + distinct + beside,
        coded_bytes=forms[form] + beside,
        entropy_bytes=entropy_coding.entropy_bytes(codes) + beside,
        form=form,
    )


def encoded(codes: Codes, form: str) -> bytes:
    """The stream that ``coded_bytes`` of ``form`` is the length of, without the scales."""
    return relative_index.encode(codes) if form == "sparse" else entropy_coding.encode(codes)


def decoded(data: bytes, form: str) -> Codes:
    """The codes in such a stream, flat."""
    return relative_index.decode(data) if form == "sparse" else entropy_coding.decode(data)


def total(rows: Sequence[WeightSize], name: str = "all weights") -> WeightSize:
    """All weights together."""
    sums = {f.name: sum(getattr(r, f.name) for r in rows) for f in fields(WeightSize)[2:11]}
    sums["distinct"] = max((r.distinct for r in rows), default=0)
    widths, forms = {r.bits for r in rows}, {r.form for r in rows}
    return WeightSize(
        name=name,
        bits=widths.pop() if len(widths) == 1 else 0,
        form=forms.pop() if len(forms) == 1 else "mixed",
        **sums,
    )


def codes_of(simulator: Simulator, recipe: Recipe, operand: Operand, bits: int) -> Tensor:
    """A weight operand's integers under a recipe: int8, shape of the parameter."""
    params, _ = simulator.weight(operand, bits, recipe.per_channel)
    return quantize(simulator.program.parameter(operand.tensor), params)


def int8_weights(simulator: Simulator, recipe: Recipe) -> dict[str, tuple[Operand, int]]:
    """Op -> its stored weight operand and the bits it has under a recipe, each weight once."""
    decisions = resolve(recipe, simulator.graph)
    found: dict[str, tuple[Operand, int]] = {}
    seen: set[str] = set()
    for operand in simulator.graph.operands.values():
        decision = decisions[operand.name]
        if operand.kind == "weight" and decision.int8 and operand.tensor not in seen:
            seen.add(operand.tensor)
            found[operand.op] = operand, decision.bits
    return found


def weight_sizes(
    simulator: Simulator, recipe: Recipe, ops: Iterable[str] | None = None
) -> tuple[WeightSize, ...]:
    """Sizes of every weight that a recipe makes integer, in execution order, by op.

    Args:
        simulator: of the graph, tuned weights included.
        recipe: the decision.
        ops: only these; None for all.
    """
    wanted = None if ops is None else set(ops)
    rows = []
    for op, (operand, bits) in int8_weights(simulator, recipe).items():
        if wanted is None or op in wanted:
            codes = codes_of(simulator, recipe, operand, bits)
            scales = codes.shape[operand.axis or 0] if recipe.per_channel else 1
            rows.append(weight_size(op, codes.numpy(), bits, scales))
    return tuple(rows)
