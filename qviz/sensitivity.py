"""Which ops hurt: the metric change caused by one op or operand, with intervals and ties.

``only_this`` quantizes one op and leaves the rest in float (Wu et al. 2020, section 6.1);
``all_but_this`` quantizes everything else. Ops are ranked by the divergence of the outputs from
the base's, because on a few hundred samples accuracy does not tell most ops apart; the metric's
change stands beside it.

The exact sweep starts each op from kept values (``sweep.py``). Before it the gradient proxy
(``proxy.py``) ranks all ops in one pass; its rows are replaced as exact ones arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from qviz.data import Data
from qviz.errors import RecipeError
from qviz.evaluate import Outputs, compare, divergence_metric
from qviz.graph import Graph
from qviz.intervals import (
    Interval,
    Scores,
    paired_bootstrap,
    relative_change,
    resampled,
    tie_groups,
)
from qviz.metrics import Metric, score
from qviz.progress import OnProgress, Reporter
from qviz.recipe import Recipe, resolve
from qviz.simulate import Simulator
from qviz.sweep import Part, sweep

Mode = Literal["only_this", "all_but_this"]
Operands = Literal["both", "weights", "activations"]
Granularity = Literal["op", "operand"]


@dataclass(frozen=True)
class SensitivityRow:
    """The effect of one op or operand.

    Attributes:
        name: the op or operand.
        type: the op's type.
        divergence: only_this: mean divergence from float that it causes alone. all_but_this: how
            much the divergence of the full recipe falls when it is left in float.
        divergence_interval: 95 % bootstrap interval of it.
        change: relative change of the metric that it causes (only_this: from float; all_but_this:
            from all-int8 to all but this, so positive is what leaving it in float wins).
        change_interval: 95 % paired bootstrap interval of it.
        value: the metric measured.
        samples: samples measured so far; 0 if the row is the proxy's.
        exact: measured, not estimated by the proxy.
        rank: place in the ranking, 0 is worst.
        tie: number of the group of ops the data cannot tell apart.
    """

    name: str
    type: str
    divergence: float
    divergence_interval: Interval | None
    change: float | None
    change_interval: Interval | None
    value: float | None
    samples: int
    exact: bool
    rank: int
    tie: int


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """A ranking, worst first.

    Attributes:
        rows: worst first.
        mode: only_this or all_but_this.
        operands: both, weights or activations.
        metric: name of the metric.
        divergence_name: ``kl`` or ``mse``.
        proxy: the gradient estimate of each row, by name; empty for all_but_this.
        spearman: rank correlation of the proxy with the exact divergence, None if not all exact.
    """

    rows: tuple[SensitivityRow, ...]
    mode: Mode
    operands: Operands
    metric: str
    divergence_name: str
    proxy: Mapping[str, float] = field(default_factory=dict)
    spearman: float | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the summed divergence that the worst 1, 2, 3 ... rows explain."""
        total = sum(max(r.divergence, 0.0) for r in self.rows)
        running, out = 0.0, []
        for row in self.rows:
            running += max(row.divergence, 0.0)
            out.append(running / total if total else 0.0)
        return tuple(out)

    @property
    def flat(self) -> bool:
        """No small set explains the loss: half of it needs more than a fifth of the ops."""
        needed = next((i + 1 for i, s in enumerate(self.shares) if s >= 0.5), len(self.rows))
        return len(self.rows) >= 10 and needed > len(self.rows) / 5


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores of one variant for a stretch of samples; what a run folder keeps.

    Attributes:
        key: op or operand.
        start: index of the first sample.
        divergence: per sample, ``[n]``.
        scores: the metric per sample ``[n]``, None for a metric of the whole corpus.
        outputs: the outputs ``[n, ...]``, for a metric of the whole corpus only.
    """

    key: str
    start: int
    divergence: Tensor
    scores: Tensor | None
    outputs: Tensor | None


OnRows = Callable[[Sensitivity], None]


def targets_of(
    recipe: Recipe, graph: Graph, *, operands: Operands, granularity: Granularity
) -> dict[str, tuple[str, ...]]:
    """Op or operand name -> the int8 operands that are switched together for it."""
    kinds = {
        "both": ("weight", "activation"),
        "weights": ("weight",),
        "activations": ("activation",),
    }
    decisions = resolve(recipe, graph)
    groups: dict[str, tuple[str, ...]] = {}
    for op in graph.quantizable:
        names = tuple(
            o.name for o in op.operands if decisions[o.name].int8 and o.kind in kinds[operands]
        )
        if granularity == "operand":
            groups |= {name: (name,) for name in names}
        elif names:
            groups[op.name] = names
    if not groups:
        raise RecipeError("recipe", "leaves nothing int8 to measure", "Quantize at least one op")
    return groups


def variant(recipe: Recipe, operands: Sequence[str], mode: Mode) -> Recipe:
    """The recipe of one measurement: nothing but these operands int8, or all but these."""
    return recipe.only(*operands) if mode == "only_this" else recipe.skip(*operands)


def measure(
    simulator: Simulator,
    data: Data,
    recipe: Recipe,
    reference: Outputs,
    metric: Metric,
    *,
    mode: Mode = "only_this",
    operands: Operands = "both",
    granularity: Granularity = "op",
    batch_size: int = 32,
    budget: int = 2 << 30,
    proxy: Mapping[str, float] | None = None,
    known: Sequence[Measured] = (),
    save: Callable[[Measured], None] | None = None,
    on_rows: OnRows | None = None,
    progress: OnProgress | None = None,
) -> Sensitivity:
    """Measure every op or operand of a recipe.

    Args:
        simulator: the captured model.
        data: evaluation samples.
        recipe: says which operands are int8, and their ranges.
        reference: the float model's outputs on ``data``.
        metric: the user's metric.
        mode: see the module docstring.
        operands: switch the weights, the activations or both of each op.
        granularity: per op, or each operand by itself.
        batch_size: samples per forward pass.
        budget: bytes of kept prefix values.
        proxy: estimates by name; they give the order and stand in until a row is measured.
        known: parts measured by an earlier run, not measured again.
        save: called with each finished part.
        on_rows: called with the ranking so far after each part.
        progress: told after each part.

    Raises:
        RecipeError: the recipe leaves nothing int8.
    """
    groups = targets_of(recipe, simulator.graph, operands=operands, granularity=granularity)
    base = simulator.edits(recipe.only() if mode == "only_this" else recipe)
    board = _Board(simulator.graph, groups, reference, metric, mode, operands, dict(proxy or {}))
    if mode == "all_but_this":
        board.set_base(simulator, data, base, batch_size)
    for part in known:
        board.add(part)
    report = Reporter("sensitivity", len(groups) * data.count, progress)
    report.done = board.samples_done()

    def edits(names: tuple[str, ...]) -> Callable[[], object]:
        return lambda: simulator.edits(variant(recipe, names, mode))

    parts = sweep(
        simulator,
        data,
        base,
        {key: edits(names) for key, names in groups.items()},  # type: ignore[misc]
        batch_size=batch_size,
        budget=budget,
        order=board.order,
        finished=board.finished,
    )
    for part in parts:
        measured = _score(part, reference, metric)
        if save is not None:
            save(measured)
        board.add(measured)
        if on_rows is not None:
            on_rows(board.ranking(ties=False))
        report.step(part.key, len(part.values))
    return board.ranking(ties=True)


def _score(part: Part, reference: Outputs, metric: Metric) -> Measured:
    stop = part.start + len(part.values)
    values = reference.values[part.start : stop]
    targets = None if reference.targets is None else reference.targets[part.start : stop]
    divergence = score(divergence_metric(values), part.values, None, values).per_sample
    assert divergence is not None
    own = score(metric, part.values, targets, values)
    corpus = own.per_sample is None
    return Measured(
        part.key, part.start, divergence, own.per_sample, part.values if corpus else None
    )


class _Board:
    """The ranking as it fills."""

    def __init__(
        self,
        graph: Graph,
        groups: Mapping[str, tuple[str, ...]],
        reference: Outputs,
        metric: Metric,
        mode: Mode,
        operands: Operands,
        proxy: dict[str, float],
    ) -> None:
        self.groups, self.reference, self.metric = groups, reference, metric
        self.mode: Mode = mode
        self.operands: Operands = operands
        self.proxy = {k: v for k, v in proxy.items() if k in groups}
        self.parts: dict[str, dict[int, Measured]] = {key: {} for key in groups}
        self.types = {o.name: op.type for op in graph.quantizable for o in op.operands}
        self.types |= {op.name: op.type for op in graph.quantizable}
        self.base_divergence: Tensor | None = None
        self.base_scores: Scores | None = None
        self._rows: dict[str, SensitivityRow] = {}
        self._float = score(metric, reference.values, reference.targets, reference.values)

    def set_base(self, simulator: Simulator, data: Data, base: object, batch_size: int) -> None:
        from qviz.evaluate import outputs

        made = outputs(simulator.program, data, base, batch_size=batch_size).values  # type: ignore[arg-type]
        whole = _score(Part("", 0, made), self.reference, self.metric)
        self.base_divergence = whole.divergence
        self.base_scores = score(self.metric, made, self.reference.targets, self.reference.values)

    def add(self, part: Measured) -> None:
        if part.key in self.parts:
            self.parts[part.key][part.start] = part
            self._rows.pop(part.key, None)

    def finished(self, key: str, start: int) -> bool:
        return start in self.parts[key]

    def samples_done(self) -> int:
        return sum(len(p.divergence) for parts in self.parts.values() for p in parts.values())

    def order(self) -> list[str]:
        return sorted(self.groups, key=lambda key: -self._row(key).divergence)

    def _joined(self, key: str) -> tuple[Tensor, Scores, Scores, Tensor] | None:
        """Divergence, own scores, the base's scores and the sample indices of one key."""
        parts = [p for _, p in sorted(self.parts[key].items())]
        if not parts:
            return None
        rows = torch.cat([torch.arange(p.start, p.start + len(p.divergence)) for p in parts])
        divergence = torch.cat([p.divergence for p in parts])
        values = self.reference.values[rows]
        targets = None if self.reference.targets is None else self.reference.targets[rows]
        if parts[0].outputs is not None:
            outputs = torch.cat([p.outputs for p in parts if p.outputs is not None])
            own = score(self.metric, outputs, targets, values)
        else:
            per_sample = torch.cat([p.scores for p in parts if p.scores is not None])
            own = Scores(self.metric.name, float(per_sample.mean()), len(rows), per_sample)
        base = self._float if self.base_scores is None else self.base_scores
        if base.per_sample is not None:
            kept = base.per_sample[rows]
            base = Scores(base.metric, float(kept.mean()), len(rows), kept)
        if self.base_divergence is not None:
            divergence = self.base_divergence[rows] - divergence
        return divergence, own, base, rows

    def _row(self, key: str) -> SensitivityRow:
        if key in self._rows:
            return self._rows[key]
        joined = self._joined(key)
        if joined is None:
            guess = self.proxy.get(key, 0.0)
            row = SensitivityRow(
                key, self.types[key], guess, None, None, None, None, 0, False, 0, 0
            )
        else:
            divergence, own, base, rows = joined
            spread = torch.from_numpy(resampled(_scores(divergence)))
            low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64))
            row = SensitivityRow(
                name=key,
                type=self.types[key],
                divergence=float(divergence.mean()),
                divergence_interval=Interval(float(low), float(high)),
                change=relative_change(own.value, base.value),
                change_interval=paired_bootstrap(own, base, resamples=200),
                value=own.value,
                samples=len(rows),
                exact=True,
                rank=0,
                tie=0,
            )
        self._rows[key] = row
        return row

    def ranking(self, *, ties: bool) -> Sensitivity:
        rows = sorted((self._row(key) for key in self.groups), key=lambda r: -r.divergence)
        groups: Sequence[int] = range(len(rows))
        complete = all(r.samples == len(self.reference.values) for r in rows)
        if ties and complete:
            joined = [self._joined(r.name) for r in rows]
            groups = tie_groups([_scores(j[0]) for j in joined if j is not None])
        ranked = tuple(
            replace(r, rank=i, tie=g) for i, (r, g) in enumerate(zip(rows, groups, strict=True))
        )
        correlation = None
        if complete and len(self.proxy) == len(rows) > 2:
            exact = torch.tensor([r.divergence for r in rows])
            correlation = spearman(exact, torch.tensor([self.proxy[r.name] for r in rows]))
        return Sensitivity(
            rows=ranked,
            mode=self.mode,
            operands=self.operands,
            metric=self.metric.name,
            divergence_name=divergence_metric(self.reference.values).name,
            proxy=self.proxy,
            spearman=correlation,
        )


def _scores(divergence: Tensor) -> Scores:
    return Scores("divergence", float(divergence.mean()), len(divergence), divergence)


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks."""

    def ranks(x: Tensor) -> Tensor:
        _, group, count = torch.unique(x, return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        mean: Tensor = (last - (count - 1) / 2.0)[group]
        return mean - mean.mean()

    x, y = ranks(a), ranks(b)
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm else 0.0


__all__ = [
    "Measured",
    "Sensitivity",
    "SensitivityRow",
    "compare",
    "measure",
    "spearman",
    "targets_of",
    "variant",
]
