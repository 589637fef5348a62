"""Losses, allocations and frontiers as plain values for a file, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from qviz.search.layer_losses import LayerLoss, LayerLosses
from qviz.search.widths import Allocation, Costs, Frontier, FrontierPoint, Layer, Limit, Width

Plain = dict[str, Any]
T = TypeVar("T")


def losses_to(losses: LayerLosses) -> Plain:
    """Plain values of layer losses."""
    return {
        **_own(losses),
        "base": str(losses.base),
        "layers": [asdict(layer) for layer in losses.layers],
        "rows": [{**asdict(row), "width": str(row.width)} for row in losses.rows],
    }


def losses_from(value: Mapping[str, Any]) -> LayerLosses:
    """What ``losses_to`` gave."""
    layers = tuple(_made(Layer, v | {"ops": tuple(v["ops"])}) for v in value["layers"])
    rows = tuple(_made(LayerLoss, v | {"width": Width.parse(v["width"])}) for v in value["rows"])
    known = {"layers": layers, "rows": rows, "base": Width.parse(value["base"])}
    return _made(LayerLosses, {**value, **known})


def allocation_to(allocation: Allocation) -> Plain:
    """Plain values of an allocation."""
    return {
        **_own(allocation),
        "widths": {layer: str(width) for layer, width in allocation.widths},
        "costs": asdict(allocation.costs),
        "limit": None if allocation.limit is None else asdict(allocation.limit),
    }


def allocation_from(value: Mapping[str, Any]) -> Allocation:
    """What ``allocation_to`` gave."""
    limit = value["limit"]
    known = {
        "widths": tuple((layer, Width.parse(text)) for layer, text in value["widths"].items()),
        "costs": _made(Costs, value["costs"]),
        "limit": None if limit is None else _made(Limit, limit),
    }
    return _made(Allocation, {**value, **known})


def frontier_to(frontier: Frontier) -> Plain:
    """Plain values of a frontier."""
    lines = {"points": frontier.points, "greedy": frontier.greedy}
    return _own(frontier) | {
        name: [_own(p) | {"allocation": allocation_to(p.allocation)} for p in points]
        for name, points in lines.items()
    }


def frontier_from(value: Mapping[str, Any]) -> Frontier:
    """What ``frontier_to`` gave."""

    def points(name: str) -> tuple[FrontierPoint, ...]:
        return tuple(
            _made(FrontierPoint, v | {"allocation": allocation_from(v["allocation"])})
            for v in value[name]
        )

    return _made(Frontier, {**value, "points": points("points"), "greedy": points("greedy")})


def _own(value: Any) -> Plain:  # noqa: ANN401 - any of the values above
    """The fields of a value, not those of the values in them."""
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _made(kind: type[T], value: Mapping[str, Any]) -> T:
    """A value of the fields that this version knows."""
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    return kind(**{k: v for k, v in value.items() if k in names})
