"""What each layer costs at each width: the input of every allocation of bits, measured once.

One layer at a time is switched from the base, everything at 8 bits, to a narrower width; the loss
of that network on the calibration data says what the switch costs (Hubara et al. 2021, arXiv
2006.10518, section 4; CalibTIP's ``--per-layer`` run). The loss is the mean divergence of the
outputs from the float model's, so it needs no labels. The metric may stand beside it where
calibration data has labels; on few samples it tells few layers apart.

How a layer looks at a width is not this module's to say: ``mixing.py`` gives the network of any mix
of widths, with each layer's own ranges and, after a reconstruction, its own tuned weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from qviz.data import Data
from qviz.errors import NotFiniteError, TuneError
from qviz.evaluate import Outputs, divergence_metric, outputs
from qviz.intervals import Scores
from qviz.metrics import Metric, score
from qviz.progress import OnProgress, Reporter
from qviz.ranking import Measured
from qviz.scoreboard import scored
from qviz.search.layers import rest_of
from qviz.search.mixing import Networks
from qviz.search.widths import Layer, Width
from qviz.sweep import sweep

#: What a switch costs at least, as in CalibTIP.
SMALLEST = 1e-6
#: Key of the base among the measured variants.
_BASE_KEY = "-"


@dataclass(frozen=True)
class LayerLoss:
    """The network with one layer at another width than the base.

    Attributes:
        layer: its name.
        width: its width; everything else is at the base's.
        loss: of the network.
        metric: the metric of the network, None if it was not measured.
    """

    layer: str
    width: Width
    loss: float
    metric: float | None = None


@dataclass(frozen=True)
class LayerLosses:
    """The loss of every layer at every width offered.

    Attributes:
        layers: in execution order.
        base: width of the network that layers are switched from.
        base_loss: its loss.
        rows: by layer, in execution order, then by width.
        loss: what the loss is: ``kl``, ``mse``, ``cross-entropy`` ...
        rest: parameters that no width is given to (biases, ops in float, embeddings), in elements.
        metric: name of the metric measured beside it, "" if none was.
        base_metric: of the base.
        higher_is_better: of the metric.
        samples: that it was measured on.
        data: what they are.
    """

    layers: tuple[Layer, ...]
    base: Width
    base_loss: float
    rows: tuple[LayerLoss, ...]
    loss: str = "kl"
    rest: int = 0
    metric: str = ""
    base_metric: float | None = None
    higher_is_better: bool = True
    samples: int = 0
    data: str = ""

    @cached_property
    def layer_of(self) -> Mapping[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def increase_of(self) -> Mapping[tuple[str, Width], float]:
        """What each layer alone adds to the base's loss, at least a millionth; 0 at the base.

        The millionth keeps the base where a switch measured no loss, as CalibTIP does.
        """
        found = {(layer.name, self.base): 0.0 for layer in self.layers}
        for row in self.rows:
            found[row.layer, row.width] = max(row.loss - self.base_loss, SMALLEST)
        return found

    def widths_of(self, layer: str) -> tuple[Width, ...]:
        """The base's width and those measured, widest first."""
        own = {row.width for row in self.rows if row.layer == layer} | {self.base}
        return tuple(sorted(own, reverse=True))

    def only(self, widths: Iterable[Width]) -> LayerLosses:
        """The same with no other widths than these offered."""
        offered = set(widths)
        return replace(self, rows=tuple(row for row in self.rows if row.width in offered))

    def by_metric(self) -> LayerLosses:
        """The same with the metric's drop from the base as loss (CalibTIP's ``--ip_method acc``).

        Raises:
            TuneError: the metric was not measured.
        """
        if self.base_metric is None or any(row.metric is None for row in self.rows):
            raise TuneError(
                "losses by metric",
                "the metric was not measured beside the loss",
                "Measure the losses again with the metric, on labelled calibration data",
            )
        sign, base = (-1.0 if self.higher_is_better else 1.0), self.base_metric
        rows = tuple(
            replace(row, loss=sign * (row.metric - base))
            for row in self.rows
            if row.metric is not None
        )
        return replace(self, rows=rows, base_loss=0.0, loss=f"{self.metric} drop")


def measure(
    networks: Networks,
    data: Data,
    *,
    metric: Metric | None = None,
    batch_size: int = 32,
    budget: int = 2 << 30,
    known: Sequence[Measured] = (),
    save: Callable[[Measured], None] | None = None,
    progress: OnProgress | None = None,
) -> LayerLosses:
    """Measure every layer at every width.

    Args:
        networks: the network at every width.
        data: calibration samples; never those that evaluate.
        metric: to measure beside the divergence; None for none.
        batch_size: samples per forward pass.
        budget: bytes of kept prefix values.
        known: parts measured by an earlier run, not measured again.
        save: called with each finished part.
        progress: told after each part.

    Raises:
        TuneError: a loss is NaN or infinite.
    """
    simulator = networks.simulator
    reference = outputs(networks.original.program, data, batch_size=batch_size)
    own = metric or divergence_metric(reference.values)
    choices = {
        f"{layer.name} {width}": (layer, width)
        for layer in networks.layers
        for width in networks.widths
        if width != networks.base and networks.changes(layer, width)
    }
    variants = {
        key: networks.edits_of({layer.name: width}) for key, (layer, width) in choices.items()
    }
    variants[_BASE_KEY] = networks.edits_of({})
    parts: dict[str, dict[int, Measured]] = {key: {} for key in variants}
    for part in known:
        if part.key in parts:
            parts[part.key][part.start] = part
    done = sum(len(p.divergence) for found in parts.values() for p in found.values())
    report = Reporter("layer losses", len(variants) * data.count, progress, known=done)
    for made in sweep(
        simulator,
        data,
        variants[_BASE_KEY](),
        variants,
        batch_size=batch_size,
        budget=budget,
        order=lambda: tuple(variants),
        finished=lambda key, start: start in parts[key],
    ):
        try:
            one = scored(made, reference, own)
        except NotFiniteError as failure:
            raise _not_finite(made.key, "NaN", data) from failure
        if save is not None:
            save(one)
        parts[made.key][made.start] = one
        report.step(made.key, len(made.values))
    return _joined(networks, choices, parts, reference, metric, data)


def _joined(
    networks: Networks,
    choices: Mapping[str, tuple[Layer, Width]],
    parts: Mapping[str, Mapping[int, Measured]],
    reference: Outputs,
    metric: Metric | None,
    data: Data,
) -> LayerLosses:
    def loss(key: str) -> float:
        found = torch.cat([p.divergence for _, p in sorted(parts[key].items())])
        value = float(found.mean())
        if not math.isfinite(value):
            raise _not_finite(key, str(value), data)
        return value

    def measured(key: str) -> float | None:
        return None if metric is None else _metric(parts[key], reference, metric).value

    rows = tuple(
        LayerLoss(layer.name, width, loss(key), measured(key))
        for key, (layer, width) in choices.items()
    )
    return LayerLosses(
        layers=networks.layers,
        base=networks.base,
        base_loss=loss(_BASE_KEY),
        rows=rows,
        loss=divergence_metric(reference.values).name,
        rest=rest_of(networks.graph, networks.layers),
        metric="" if metric is None else metric.name,
        base_metric=measured(_BASE_KEY),
        higher_is_better=metric is None or metric.higher_is_better,
        samples=data.count,
        data=data.name,
    )


def _not_finite(key: str, value: str, data: Data) -> TuneError:
    what = "the base" if key == _BASE_KEY else key
    return TuneError(
        f"loss of {what}",
        f"is {value} on {data.name}",
        "Look at the ranges of its tensors, or leave the op in float",
    )


def _metric(parts: Mapping[int, Measured], reference: Outputs, metric: Metric) -> Scores:
    ordered = [p for _, p in sorted(parts.items())]
    if ordered[0].outputs is not None:
        values = torch.cat([p.outputs for p in ordered if p.outputs is not None])
        return score(metric, values, reference.targets, reference.values)
    scores = torch.cat([p.scores for p in ordered if p.scores is not None])
    return Scores(metric.name, float(scores.mean()), len(scores), scores)
