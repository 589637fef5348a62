"""Losses made by hand, and every allocation there is of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from qviz.bench import Bench, OpTime
from qviz.search.allocation_problem import Problem
from qviz.search.layer_losses import LayerLoss, LayerLosses
from qviz.search.widths import BASE, Layer, Width

W4 = Width(4, 4)
W2 = Width(2, 2)


def losses(
    rows: Mapping[str, Mapping[Width, float]],
    elements: Mapping[str, int] | None = None,
    macs: Mapping[str, int] | None = None,
    *,
    base: float = 0.0,
    ends: Sequence[str] = (),
    rest: int = 0,
) -> LayerLosses:
    """Losses of layers; 1000 weights and 1000 multiply-accumulates each unless said otherwise."""
    layers = tuple(
        Layer(
            name=name,
            ops=(name,),
            elements=(elements or {}).get(name, 1000),
            macs=(macs or {}).get(name, 1000),
            end=name in ends,
        )
        for name in rows
    )
    measured = tuple(
        LayerLoss(name, width, base + loss)
        for name, found in rows.items()
        for width, loss in found.items()
    )
    return LayerLosses(layers, BASE, base, measured, rest=rest, samples=16, data="calibration")


def every(problem: Problem) -> Iterator[dict[str, Width]]:
    """Every allocation."""
    names = [layer.name for layer in problem.losses.layers]
    offered = [[w for n, w in problem.choices if n == name] for name in names]
    for widths in itertools.product(*offered):
        yield dict(zip(names, widths, strict=True))


def bench(batch: int = 1, **micros: float) -> Bench:
    """Microseconds of each op of a program, as if they had been measured."""
    rows = tuple(
        OpTime(batch, op, "conv2d", "int8 conv", (), 1, 10.0, us, 1.0) for op, us in micros.items()
    )
    return Bench(False, "CPU", "fp32", 1, "p", rows, (), {})
