"""The ranking as it fills: measured parts go in, rows with intervals and tie groups come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qviz.evaluate import Outputs, divergence_metric
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
from qviz.ranking import Measured, Mode, Operands, Sensitivity, SensitivityRow, spearman
from qviz.sweep import Part


def scored(part: Part, reference: Outputs, metric: Metric) -> Measured:
    """A part's outputs as scores: the divergence from float and the metric, per sample."""
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


class Scoreboard:
    """Measured parts in, ranking so far out."""

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

    def set_base(self, values: Tensor) -> None:
        """Outputs of the full recipe, from which all_but_this differences are taken."""
        whole = scored(Part("", 0, values), self.reference, self.metric)
        self.base_divergence = whole.divergence
        self.base_scores = score(self.metric, values, self.reference.targets, self.reference.values)

    def add(self, part: Measured) -> None:
        """Take in a measured part; parts of names that are not ranked are left out."""
        if part.key in self.parts:
            self.parts[part.key][part.start] = part
            self._rows.pop(part.key, None)

    def finished(self, key: str, start: int) -> bool:
        """Whether the part of ``key`` that begins at sample ``start`` is there."""
        return start in self.parts[key]

    @property
    def complete(self) -> bool:
        """Whether every sample of every name is measured."""
        return self.samples_done() == len(self.groups) * len(self.reference.values)

    def samples_done(self) -> int:
        """Samples measured, over all names."""
        return sum(len(p.divergence) for parts in self.parts.values() for p in parts.values())

    def order(self) -> list[str]:
        """Names, worst first by what is known so far."""

        def known(key: str) -> float:  # the mean alone: intervals are for rows that are shown
            measured = self._divergence(key)
            return self.proxy.get(key, 0.0) if measured is None else float(measured[0].mean())

        return sorted(self.groups, key=lambda key: -known(key))

    def _divergence(self, key: str) -> tuple[Tensor, Tensor] | None:
        """Divergence per sample and the sample indices of one key, None if nothing is measured."""
        parts = [p for _, p in sorted(self.parts[key].items())]
        if not parts:
            return None
        rows = torch.cat([torch.arange(p.start, p.start + len(p.divergence)) for p in parts])
        divergence = torch.cat([p.divergence for p in parts])
        if self.base_divergence is not None:
            divergence = self.base_divergence[rows] - divergence
        return divergence, rows

    def _joined(self, key: str) -> tuple[Tensor, Scores, Scores, Tensor] | None:
        """Divergence, own scores, the base's scores and the sample indices of one key."""
        measured = self._divergence(key)
        if measured is None:
            return None
        divergence, rows = measured
        parts = [p for _, p in sorted(self.parts[key].items())]
        if parts[0].outputs is not None:
            outputs = torch.cat([p.outputs for p in parts if p.outputs is not None])
            targets = None if self.reference.targets is None else self.reference.targets[rows]
            own = score(self.metric, outputs, targets, self.reference.values[rows])
        else:
            per_sample = torch.cat([p.scores for p in parts if p.scores is not None])
            own = Scores(self.metric.name, float(per_sample.mean()), len(rows), per_sample)
        base = self._float if self.base_scores is None else self.base_scores
        if base.per_sample is not None:
            kept = base.per_sample[rows]
            base = Scores(base.metric, float(kept.mean()), len(rows), kept)
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
        """The ranking so far; tie groups cost time and are for the end."""
        rows = sorted((self._row(key) for key in self.groups), key=lambda r: -r.divergence)
        groups: Sequence[int] = range(len(rows))
        complete = self.complete
        if ties and complete:
            measured = [self._divergence(r.name) for r in rows]
            groups = tie_groups([_scores(m[0]) for m in measured if m is not None])
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
