"""Times as text for a person: worst first, and what is an estimate says so in every heading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qviz.bench import worst_first
from qviz.cli_print import number, percent, table

if TYPE_CHECKING:
    from qviz.bench import Bench, OpTime
    from qviz.bench_plan import LatencyMark, Prices, Trade

#: Ops that a warning names; the table has them all.
NAMED = 8


def bench_lines(bench: Bench, top: int) -> str:
    """The whole model, the ops, and what is slower."""
    known = ", not measured" if bench.estimated else ""
    parts = [f"{bench.label}{known}: int8 against float {bench.float_type}"]
    parts.append(_whole(bench))
    for batch in bench.batches:
        parts.append(_ops(bench, batch, top))
    parts += [f"note: {note}" for note in bench.notes]
    parts += [line for batch in bench.batches if (line := _warning(bench, batch))]
    return "\n".join(parts)


def _warning(bench: Bench, batch: int) -> str:
    """Names of the ops that are slower in int8, the largest loss first."""
    found = [row for row in bench.slower if row.batch == batch]
    if not found:
        return ""
    ops = [f"{r.op} ({number(r.cost_us)} against {number(r.float_us)} us)" for r in found[:NAMED]]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return (
        f"warning: int8 is slower here than {bench.float_type} at batch {batch} ({bench.label}): "
        f"{', '.join(ops)}{more}"
    )


def _whole(bench: Bench) -> str:
    rows = []
    for one in bench.whole:
        base = bench.time(one.batch, f"float {bench.float_type}").us
        time = one.time
        spread = f"{number(time.low)} to {number(time.high)}" if time.runs else "-"
        rows.append(
            (
                str(one.batch),
                one.name,
                number(time.us),
                spread,
                f"{number(base / time.us)} x",
                str(time.runs) if time.runs else "estimated",
            )
        )
    return table(("batch", "whole model<", "us", "quartiles", "speed-up", "runs"), rows)


def _ops(bench: Bench, batch: int, top: int) -> str:
    rows = bench.of(batch)
    shown = worst_first(rows)[:top]
    how = "estimated" if bench.estimated else "measured"
    heads = (
        "op<",
        "type<",
        "kernel<",
        f"float us {how}",
        f"int8 us {how}",
        "to quantize us",
        "int8 / float",
        "bound int8 / float<" if bench.estimated else "<",
        "<",
    )
    summed = "sum over all rows" if bench.estimated else "all calls one by one"
    lines = [
        f"ops at batch {batch}, {len(shown)} of {len(rows)} rows: slower in int8 first, then by "
        "time",
        table(heads, (_op(row) for row in shown)),
        f"  {summed}: int8 {number(bench.walk_us[batch])} us, float "
        f"{number(sum(row.float_us for row in rows))} us; of int8 "
        f"{number(sum(r.int8_us for r in rows if r.kernel in ('quantize', 'dequantize')))} us are "
        f"quantize and dequantize, {number(sum(r.int8_us for r in rows if _moves(r)))} us moving "
        "codes and layouts",
    ]
    return "\n".join(lines)


def _moves(row: OpTime) -> bool:
    return row.kernel == "codes" or row.type in ("contiguous", "clone")


def _op(row: OpTime) -> tuple[str, ...]:
    return (
        row.op,
        row.type,
        row.kernel + (f" + {len(row.parts) - 1} fused" if len(row.parts) > 1 else ""),
        number(row.float_us) if row.float_us else "-",
        number(row.int8_us),
        number(row.border_us) if row.border_us else "-",
        number(row.ratio) if row.is_int8 else "-",
        row.bound,
        "int8 is slower here" if row.slower else "",
    )


def plan_lines(
    prices: Prices, trades: Sequence[Trade], points: Sequence[LatencyMark], top: int
) -> str:
    """What leaving each op in float costs and gains, and the front."""
    how = "estimated" if prices.estimated else "measured"
    heads = ("op left in float<", "type<", "accuracy", "<", f"us {how}", "<")
    rows = [
        (
            trade.op,
            trade.type,
            percent(trade.gain, signed=True),
            "" if trade.gain is None else "measured" if trade.measured else "estimated",
            number(trade.extra_us, signed=True),
            "int8 is slower here" if trade.slower else "",
        )
        for trade in trades[:top]
    ]
    lines = [
        f"what leaving one op in float does at batch {prices.batch} ({prices.label}): accuracy won "
        "back, time added",
        table(heads, rows),
    ]
    if points:
        lines.append(
            f"accuracy and latency of the recipes measured so far (latency added up from times "
            f"{how}); * is on the Pareto front"
        )
        lines.append(_points(points, prices))
    return "\n".join(lines)


def _points(points: Sequence[LatencyMark], prices: Prices) -> str:
    heads = ("", "in float", "drop measured", "95 %", "us", "of float", "<")
    return table(
        heads,
        (
            (
                "*" if point.front else "",
                str(point.ops),
                percent(point.drop, signed=True),
                f"{percent(point.low, signed=True)} to {percent(point.high, signed=True)}",
                number(point.us),
                percent(point.us / prices.float_us),
                "this recipe" if point.current else "",
            )
            for point in sorted(points, key=lambda p: p.us)
        ),
    )
