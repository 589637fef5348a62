"""From times per call to rows per op: what is fused together, and whose borders are whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import fx

from qviz.bench import OpTime
from qviz.int8.timing_subject import Owner, Subject, owners, readers

Times = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layout:
    """How the calls of a program and of its float twin make rows.

    Attributes:
        owner: of each call of the program, by node name.
        sources: the twin's calls, in order: node name of the call that each stands for.
        charged: node name of a border call -> those of the calls it exists for.
    """

    owner: Mapping[str, Owner]
    sources: tuple[str, ...]
    charged: Mapping[str, tuple[str, ...]]

    @staticmethod
    def of(subject: Subject, twin: fx.GraphModule, codes: Iterable[str]) -> Layout:
        """From the program.

        Args:
            subject: the integer program.
            twin: the same in float.
            codes: node names of calls whose values are codes.
        """
        owner, held = owners(subject), set(codes)
        borders = {n for n, o in owner.items() if o.kernel in ("quantize", "dequantize")}
        moving = {
            name: name in borders or (name in held and not one.kernel.startswith("int8"))
            for name, one in owner.items()
        }
        nodes = {n.name: n for n in subject.program.graph.nodes}
        charged = {
            n: tuple(r.name for r in readers(nodes[n], moving)) for n in owner if n in borders
        }
        sources = tuple(str(n.meta["source"]) for n in twin.graph.nodes if n.op == "call_function")
        return Layout(owner, sources, charged)


@dataclass(eq=False)
class _Row:
    """Times of one row, ``[turns]`` each."""

    owner: Owner
    nodes: list[str]
    int8: Times
    real: Times
    border: Times
    parts: dict[str, float] = field(default_factory=dict)


def make_rows(
    layout: Layout,
    batch: int,
    int8: Times,
    real: Times,
    requantize: Mapping[str, float],
    bounds: Mapping[str, str] | None = None,
) -> tuple[OpTime, ...]:
    """Rows of one batch size, in execution order.

    Args:
        layout: of the program and its twin.
        batch: samples per run.
        int8: microseconds ``[turns, calls]`` of the program.
        real: the same of the twin; one turn for an estimate.
        requantize: node name -> what rounding its output in a call of its own takes.
        bounds: for an estimate: node name -> what bounds it.
    """
    found: dict[tuple[str, str], _Row] = {}
    row_of: dict[str, _Row] = {}
    turns = len(int8)
    for index, (name, owner) in enumerate(layout.owner.items()):
        row = found.setdefault(
            (owner.op, owner.kernel),
            _Row(owner, [], np.zeros(turns), np.zeros(turns), np.zeros(turns)),
        )
        row.nodes.append(name)
        row.int8 = row.int8 + int8[:, index]
        row_of[name] = row
    place = {name: index for index, name in enumerate(layout.owner)}
    for name, calls in layout.charged.items():
        cost = int8[:, place[name]]
        for reader in calls:
            row_of[reader].border = row_of[reader].border + cost / len(calls)
    _add_real(layout, real, row_of)
    return tuple(_made(row, batch, requantize, bounds) for row in found.values())


def _add_real(layout: Layout, real: Times, row_of: Mapping[str, _Row]) -> None:
    """The twin's calls, in the order of the ops that a kernel computes."""
    of_source: dict[str, list[int]] = {}
    for index, source in enumerate(layout.sources):
        of_source.setdefault(source, []).append(index)
    for source, indices in of_source.items():
        row, members = row_of[source], layout.owner[source].members
        for place, index in enumerate(indices):
            row.real = row.real + real[:, index]
            exact = len(members) == len(indices)
            name = members[place] if exact else (members[0] if members else row.owner.op)
            row.parts[name] = row.parts.get(name, 0.0) + float(np.median(real[:, index]))


def _made(
    row: _Row, batch: int, requantize: Mapping[str, float], bounds: Mapping[str, str] | None
) -> OpTime:
    low = None
    cost = row.int8 + row.border
    if bounds is None and row.real.min(initial=np.inf) > 0:
        low = float(np.percentile(cost / row.real, 25))
    known = [requantize[n] for n in row.nodes if n in requantize]
    return OpTime(
        batch=batch,
        op=row.owner.op,
        type=row.owner.type,
        kernel=row.owner.kernel,
        parts=tuple(row.parts.items()),
        calls=len(row.nodes),
        float_us=float(np.median(row.real)),
        int8_us=float(np.median(row.int8)),
        border_us=float(np.median(row.border)),
        ratio_low=low,
        requantize_us=known[-1] if known else None,
        bound="" if bounds is None else bounds.get(row.nodes[-1], ""),
    )
