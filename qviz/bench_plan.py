"""From times per op to what leaving an op in float costs, and which recipes are worth having.

The latency of a recipe is added up from what was measured (or estimated) once, with everything
int8:

* an op in float costs its float time instead of its kernel's. An op that was computed inside
  another one's kernel leaves it, and so do the ops after it in there;
* a tensor has to be quantized in a call of its own if some reader takes codes while its producer
  makes floats, or while another reader takes floats. With everything int8 most tensors need none.

Times of ops are taken to add up, and a float op to be no slower for reading what a kernel wrote:
first order, as ``estimate.py`` is for accuracy. A recipe that matters is worth a bench of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qviz.bench import Bench, OpTime
from qviz.digits import number, percent
from qviz.estimate import Anchor, Effects, Measured
from qviz.graph import Graph
from qviz.recipe import Recipe, resolve


@dataclass(frozen=True)
class Border:
    """One tensor that some op reads as codes.

    Attributes:
        cost_us: of quantizing it in a call of its own.
        paid: that is done with everything int8 already: something else makes or reads it in float.
        made_by: op whose kernel makes it, None if no integer kernel does.
        readers: ops that read it as codes.
    """

    cost_us: float
    paid: bool
    made_by: str | None
    readers: frozenset[str]


@dataclass(frozen=True, eq=False)
class Prices:
    """What ops cost as int8 and as float, on one device at one batch size.

    Attributes:
        label: ``measured on ...`` or ``roofline estimate for ...``.
        estimated: from a datasheet.
        float_type: of an op left in float.
        batch: samples per run.
        int8_us: the whole model, everything int8: the sum over its calls.
        float_us: the whole model in float, likewise.
        kernels: rows of the integer kernels, by the op that gives them their name.
        borders: by name of the tensor.
        slower: rows of ops that are slower in int8.
    """

    label: str
    estimated: bool
    float_type: str
    batch: int
    int8_us: float
    float_us: float
    kernels: Mapping[str, OpTime]
    borders: Mapping[str, Border]
    slower: tuple[OpTime, ...] = ()
    _kernel_of: Mapping[str, str] = field(default_factory=dict)
    _borders_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @staticmethod
    def of(bench: Bench, graph: Graph, base: Recipe, batch: int | None = None) -> Prices:
        """Prices for changing a recipe.

        Args:
            bench: of the program that ``base`` is lowered to.
            graph: the model.
            base: the recipe with everything int8.
            batch: one of the bench's; None is its first.
        """
        chosen = bench.batches[0] if batch is None else batch
        rows = bench.of(chosen)
        kernels = {row.op: row for row in rows if row.is_int8}
        kernel_of = {name: head for head, row in kernels.items() for name, _ in row.parts}
        borders = _borders(rows, kernel_of, graph, base)
        borders_of: dict[str, list[str]] = {}
        for name, border in borders.items():
            made_by = [op for op, head in kernel_of.items() if head == border.made_by]
            for op in {*border.readers, *made_by}:
                borders_of.setdefault(op, []).append(name)
        return Prices(
            label=bench.label,
            estimated=bench.estimated,
            float_type=bench.float_type,
            batch=chosen,
            # not the time of the whole: what is added to it has to be of the same kind, and a
            # short time is less often one during which something else ran
            int8_us=sum(row.int8_us for row in rows),
            float_us=sum(row.float_us for row in rows),
            kernels=kernels,
            borders=borders,
            slower=tuple(row for row in bench.slower if row.batch == chosen),
            _kernel_of=kernel_of,
            _borders_of={op: tuple(names) for op, names in borders_of.items()},
        )

    def latency(self, left: Collection[str]) -> float:
        """The whole model with some ops in float, in microseconds."""
        return self.int8_us + self._change(frozenset(left))

    def extra(self, op: str) -> float:
        """What leaving one op in float, and nothing else, adds; negative if it saves time."""
        return self._change(frozenset((op,)))

    def _change(self, left: frozenset[str]) -> float:
        # a set's order differs from run to run, and sums of floats with it
        heads = dict.fromkeys(self._kernel_of[op] for op in sorted(left) if op in self._kernel_of)
        tensors = dict.fromkeys(
            name for op in sorted(left) for name in self._borders_of.get(op, ())
        )
        change = sum(_kernel_us(self.kernels[head], left) for head in heads)
        change -= sum(self.kernels[head].int8_us for head in heads)
        for name in tensors:
            border = self.borders[name]
            change += border.cost_us * (self._pays(border, left) - self._pays(border, frozenset()))
        return change

    def _pays(self, border: Border, left: frozenset[str]) -> bool:
        """Whether a tensor has to be quantized in a call of its own."""
        if border.readers <= left:
            return False
        row = None if border.made_by is None else self.kernels[border.made_by]
        from_float = row is not None and any(name in left for name, _ in row.parts)
        return border.paid or from_float or bool(border.readers & left)


def _kernel_us(row: OpTime, left: Collection[str]) -> float:
    """One kernel's ops when some of them are in float."""
    if row.op in left:
        return row.float_us
    names = [name for name, _ in row.parts]
    out = next((i for i, name in enumerate(names) if name in left), len(names))
    return row.int8_us + sum(us for _, us in row.parts[out:])


def _borders(
    rows: Iterable[OpTime], kernel_of: Mapping[str, str], graph: Graph, base: Recipe
) -> dict[str, Border]:
    decisions = resolve(base, graph)
    readers: dict[str, set[str]] = {}
    for operand in graph.operands.values():
        if operand.kind == "activation" and decisions[operand.name].int8:
            readers.setdefault(operand.tensor, set()).add(operand.op)
    paid: dict[str, float] = {}
    price: dict[str, float] = {}
    for row in rows:
        if row.kernel == "quantize":
            paid[row.op] = paid.get(row.op, 0.0) + row.int8_us
        elif row.requantize_us is not None:
            price[row.parts[-1][0] if row.parts else row.op] = row.requantize_us
    return {
        name: Border(
            cost_us=paid.get(name, price.get(name, 0.0)),
            paid=name in paid,
            made_by=kernel_of.get(name),
            readers=frozenset(own),
        )
        for name, own in readers.items()
    }


@dataclass(frozen=True)
class Trade:
    """What leaving one op in float does.

    Attributes:
        op: its name.
        type: its type.
        extra_us: what it adds to the latency; negative saves.
        gain: relative change of the metric for the better, None if nothing is known.
        measured: the gain was measured with only this op in float; otherwise it is estimated.
        slower: int8 is slower than float here.
    """

    op: str
    type: str
    extra_us: float
    gain: float | None
    measured: bool
    slower: bool

    def said(self, prices: Prices) -> str:
        """``leaving conv1 float: +0.40 % (estimated), +12.0 us (measured on ...)``."""
        how = "measured" if self.measured else "estimated"
        gain = (
            "accuracy not known"
            if self.gain is None
            else f"{percent(self.gain, signed=True)} accuracy ({how})"
        )
        time = f"{number(self.extra_us, signed=True)} us ({prices.label})"
        return f"leaving {self.op} float: {gain}, {time}"


def trades(
    prices: Prices,
    graph: Graph,
    ops: Iterable[str],
    known: Effects,
    anchor: Anchor | None = None,
    measured: Mapping[frozenset[str], float] | None = None,
) -> tuple[Trade, ...]:
    """What leaving each op in float does, the largest gain first.

    Args:
        prices: of the recipe with everything int8.
        graph: the model.
        ops: those that can be left in float.
        known: divergence of each op alone.
        anchor: all int8, measured; gains are estimated with it.
        measured: ops left in float -> measured relative drop.
    """
    drops = measured or {}
    slower = {row.op for row in prices.slower}
    found = []
    for op in ops:
        alone, whole = drops.get(frozenset((op,))), drops.get(frozenset())
        gain = None if alone is None or whole is None else whole - alone
        exact = gain is not None
        if gain is None and anchor is not None and op in known.of:
            predicted = anchor.drop_at(max(0.0, known.of[op]))
            gain = None if predicted is None else predicted[0]
        found.append(Trade(op, graph.ops[op].type, prices.extra(op), gain, exact, op in slower))
    return tuple(sorted(found, key=lambda t: -(t.gain if t.gain is not None else -1.0)))


@dataclass(frozen=True)
class LatencyMark:
    """One measured recipe in the plane of accuracy and latency.

    Attributes:
        ops: ops left in float.
        drop: measured relative drop, positive is worse.
        low: lower limit of its 95 % interval.
        high: upper limit.
        us: latency, added up from measured or estimated times.
        label: where it comes from.
        current: it is the recipe that is being edited.
        front: no other one is as good in both.
        key: given to whoever clicks it.
    """

    ops: int
    drop: float
    low: float
    high: float
    us: float
    label: str
    current: bool = False
    front: bool = False
    key: int = 0


def marks(
    prices: Prices,
    points: Sequence[tuple[Collection[str], Measured]],
    *,
    current: int | None = None,
    labels: Sequence[str] = (),
) -> tuple[LatencyMark, ...]:
    """Measured recipes with their latency, in the order given; the front marked.

    Args:
        prices: of the recipe with everything int8.
        points: ops left in float, and what was measured.
        current: place of the recipe that is being edited.
        labels: where each point comes from.
    """
    times = [prices.latency(ops) for ops, _ in points]
    front = pareto([(point.drop, us) for (_, point), us in zip(points, times, strict=True)])
    return tuple(
        LatencyMark(
            ops=len(ops),
            drop=point.drop,
            low=point.low,
            high=point.high,
            us=times[key],
            label=labels[key] if labels else "",
            current=key == current,
            front=front[key],
            key=key,
        )
        for key, (ops, point) in enumerate(points)
    )


def pareto(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Which points no other beats: none is as low in both coordinates and lower in one.

    A point with NaN is never on the front. Equal points are on it together.
    """
    known = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    front = [False] * len(points)
    lowest, last = math.inf, None
    for i in sorted(known, key=lambda i: points[i]):
        if points[i][1] < lowest or points[i] == last:
            front[i], lowest, last = True, points[i][1], points[i]
    return tuple(front)
