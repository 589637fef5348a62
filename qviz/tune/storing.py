"""What codebook, step subset and pruning share: which weights, what they take before and after."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qviz.affine import Grid, QuantParams, quantize
from qviz.errors import TuneError
from qviz.graph import Operand
from qviz.progress import Reporter
from qviz.tune.sizes import WeightSize, int8_weights, total, weight_size
from qviz.tune.step import Change, Step, Subject, reranged
from qviz.weights import TunedWeights, shared


@dataclass(frozen=True, eq=False)
class Stored:
    """One op's weight under a recipe.

    Attributes:
        op: whose it is.
        operand: its weight operand.
        bits: of its grid.
        value: float32, as the graph has it.
        params: its grid.
        limit: amax of that grid; with it the same grid comes of any other values.
    """

    op: str
    operand: Operand
    bits: int
    value: Tensor
    params: QuantParams
    limit: Tensor

    @property
    def scales(self) -> int:
        """Number of scales stored with it: one per output channel, or one."""
        return 1 if self.params.axis is None else self.value.shape[self.params.axis]

    @property
    def scale(self) -> Tensor:
        """Size of one step, shaped to broadcast against ``value``."""
        if self.params.axis is None:
            return self.params.scale
        shape = [1] * self.value.dim()
        shape[self.params.axis] = -1
        return self.params.scale.reshape(shape)


@dataclass(frozen=True, eq=False)
class Replaced:
    """What becomes of one weight.

    Attributes:
        value: the new one.
        keeps_grid: whether its grid must stay what it was.
        before: sizes.
        after: sizes.
        note: in words.
    """

    value: Tensor
    keeps_grid: bool
    before: WeightSize
    after: WeightSize
    note: str


def stored_weights(subject: Subject) -> dict[str, tuple[Operand, int]]:
    """Op -> its weight operand and bits, largest first: integer, and read by no other op."""
    found = {
        op: (operand, bits)
        for op, (operand, bits) in int8_weights(subject.simulator, subject.recipe).items()
        if subject.wants(op) and not shared(subject.graph, operand.tensor)
    }
    parameter = subject.simulator.program.parameter
    sizes = {op: parameter(operand.tensor).numel() for op, (operand, _) in found.items()}
    return dict(sorted(found.items(), key=lambda item: -sizes[item[0]]))


def _limit(value: Tensor, params: QuantParams, known: Tensor | None) -> Tensor:
    if known is not None and known.dim() == params.scale.dim():
        return known
    if params.axis is None:
        return value.abs().amax()
    others = [d for d in range(value.dim()) if d != params.axis]
    return value.abs().amax(others) if others else value.abs()


def read(subject: Subject, op: str, operand: Operand, bits: int) -> Stored:
    """A weight and its grid.

    Raises:
        NotFiniteError: it holds NaN or Inf.
    """
    params, _ = subject.simulator.weight(operand, bits, subject.recipe.per_channel)
    value = subject.simulator.program.parameter(operand.tensor).detach()
    known = subject.graph.limits.get(operand.name, {}).get(bits)
    return Stored(op, operand, bits, value, params, _limit(value, params, known))


def replaced(
    subject: Subject,
    title: str,
    names: Sequence[str],
    replace: Callable[[Stored], Replaced],
    *,
    always: bool = False,
) -> Step:
    """The step that replaces weights one by one, wherever that makes them smaller to store.

    Args:
        subject: what the method was given.
        title: of the method, for a person.
        names: the ops to change; the method's sites.
        replace: what becomes of a weight.
        always: wherever it does not as well, because a later step may.

    Raises:
        TuneError: there is nothing to change, or nothing would be saved by it.
    """
    weights = stored_weights(subject)
    if not weights:
        raise TuneError(
            title,
            "no op has an integer weight that it could change",
            "Give a recipe whose weights are integers, or name other ops",
        )
    if not names:
        raise TuneError(
            title,
            "every weight has no more codes than it would get already",
            "Ask for fewer bits or steps",
        )
    reporter = Reporter(title, len(names), subject.progress)
    values: dict[str, Tensor] = {}
    limits: dict[str, Mapping[int, Tensor]] = {}
    made: dict[str, Replaced] = {}
    for op in names:
        stored = read(subject, op, *weights[op])
        one = replace(stored)
        if always or one.after.smallest < one.before.smallest:
            made[op] = one
            values[stored.operand.tensor] = one.value
            # a limit from before is of the old values, and would clip the new ones
            limit = stored.limit if one.keeps_grid else _limit(one.value, stored.params, None)
            limits[stored.operand.name] = {stored.bits: limit}
        reporter.step(op)
    if not made:
        raise TuneError(
            title,
            "no weight would take fewer bytes than it does now",
            "Ask for fewer bits or steps, or for more zeros",
        )
    tuned = TunedWeights(values, {}, limits)
    return Step(
        recipe=reranged(subject, tuned, subject.recipe),
        weights=tuned,
        changes=tuple(_change(op, one) for op, one in made.items()),
        notes=tuple(_left_alone(subject, made)),
        record=_record(made),
    )


def _change(op: str, one: Replaced) -> Change:
    return Change(op, "stored weight", one.before.smallest, one.after.smallest, "bytes", one.note)


def _left_alone(subject: Subject, made: Collection[str]) -> Iterator[str]:
    others = set(int8_weights(subject.simulator, subject.recipe)) - set(made)
    able = stored_weights(subject)
    for op in sorted(o for o in others if subject.wants(o)):
        own = op in able
        reason = "nothing would be saved" if own else "other ops read its weight too"
        yield f"{op} is left alone: {reason}"


def _record(made: Mapping[str, Replaced]) -> dict[str, float | int | str]:
    """Bytes of all changed weights in every form, before and after."""
    before = total([one.before for one in made.values()])
    after = total([one.after for one in made.values()])
    found: dict[str, float | int | str] = {
        "weights": before.count,
        "float_bytes": before.float_bytes,
        "int8_bytes": before.int8_bytes,
    }
    for form in ("packed", "indexed", "coded", "entropy"):
        for when, size in (("before", before), ("after", after)):
            found[f"{form}_bytes_{when}"] = getattr(size, f"{form}_bytes")
    found["zeros_before"], found["zeros_after"] = before.zeros, after.zeros
    return found


def codes_size(stored: Stored, value: Tensor) -> WeightSize:
    """Sizes of a weight's codes if it had these values on the grid it has now."""
    codes = quantize(value, stored.params)
    return weight_size(stored.op, codes.numpy(), stored.bits, stored.scales)


def sqnr_db(value: Tensor, new: Tensor) -> float:
    """10 log10 of the weight's energy over that of its error."""
    error = (value.double() - new.double()).square().sum()
    if not float(error):
        return float("inf")
    return float(10 * torch.log10(value.double().square().sum() / error))


def codes_in_grid(bits: int) -> int:
    """Different codes that a weight of ``bits`` can have."""
    grid = Grid(bits, narrow=True)
    return grid.quant_max - grid.quant_min + 1
