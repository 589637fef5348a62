"""What ``qviz allocate`` prints: the frontier as a table, the stages, the bits of each layer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qviz import cli_print as show
from qviz.digits import duration, number, percent

if TYPE_CHECKING:
    from qviz.allocating_pipeline import Piped, StageResult
    from qviz.cli_open import Job
    from qviz.data import Data
    from qviz.evaluate import Evaluation
    from qviz.search.widths import Allocation, Frontier, FrontierPoint

#: Bits that a checkpoint stores as they are: two codes, or one, to a byte.
STORED = (4, 8)


def text_of(job: Job, made: Piped, frontier: Frontier | None, missed: Sequence[str]) -> str:
    """Everything for a person; ``missed`` says how the drop asked for was."""
    session, losses = job.session, made.pipeline.losses
    allocation = made.pipeline.allocation
    lines = [
        f"model        {session.model.spec}",
        f"calibration  {_source(session.calibration_data)}: ranges, losses, fits",
        f"evaluation   {_source(session.evaluation_data)}: measured",
        f"losses       {losses.loss} of {len(losses.layers)} layers at "
        f"{', '.join(dict.fromkeys(str(r.width) for r in losses.rows))}, "
        + (f"{losses.samples} calibration samples" if losses.samples else losses.data),
        "",
    ]
    if frontier is not None:
        lines += [_heading(frontier), frontier_table(frontier, allocation), *_notes(frontier), ""]
    lines += [f"{made.pipeline.name} pipeline, {allocation.method}", _stages(made), ""]
    lines += [
        f"  {stage.stage.title}: {note}" for stage in made.stages for note in stage.stage.notes
    ]
    lines += missed
    if (found := made.last.evaluation) is not None:
        lines.append("  " + show.evaluation_lines(found).replace("\n", "\n  "))
    lines += [f"  {line}" for line in layer_lines(allocation)]
    return "\n".join([*lines, *_ending(job, made, allocation)])


def _source(data: Data | None) -> str:
    return "none" if data is None else f"{data.name}, {data.count} samples"


def _heading(frontier: Frontier) -> str:
    return (
        f"Frontier of {frontier.kind}: least {frontier.loss}, predicted from the layers' own, and "
        f"what was measured on {frontier.samples} evaluation samples"
    )


def frontier_table(frontier: Frontier, chosen: Allocation | None = None) -> str:
    """One row per allocation, tightest limit first; ``*`` marks the chosen one."""
    greedy = {point.allocation.limit: point for point in frontier.greedy}
    rows = [_row(point, greedy.get(point.allocation.limit), chosen) for point in frontier.points]
    heads = ("", "size", "bit ops", "predicted", "measured", "drop", "95 % interval", "greedy")
    return show.table((*heads, "widths<"), rows)


def _row(
    point: FrontierPoint, greedy: FrontierPoint | None, chosen: Allocation | None
) -> tuple[str, ...]:
    allocation = point.allocation
    interval = "-"
    if point.low is not None and point.high is not None:
        interval = f"{percent(point.low, signed=True)} to {percent(point.high, signed=True)}"
    same = chosen is not None and chosen.widths == allocation.widths
    return (
        "*" if same else "",
        percent(allocation.costs.size),
        percent(allocation.costs.relative_bops),
        number(allocation.loss),
        number(point.divergence),
        percent(point.drop),
        interval,
        "" if greedy is None else number(greedy.allocation.loss),
        allocation.summary,
    )


def _notes(frontier: Frontier) -> list[str]:
    if frontier.spearman is None:
        return []
    return [
        f"  Spearman of predicted loss with measured divergence {frontier.spearman:.3f}, with the "
        f"metric's drop {number(frontier.spearman_drop)}. Size: share of the layers' float32 "
        "weights; bit operations: share of 8 bits'; drop: relative, positive is worse"
    ]


def _stages(made: Piped) -> str:
    rows = [_stage_row("8 bits", made.before, None)]
    rows += [_stage_row(s.stage.title, s.evaluation, s) for s in made.stages]
    heads = ("stage<", "metric", "drop", "divergence", "held-out", "changes", "time", "<")
    return show.table(heads, rows)


def _stage_row(title: str, found: Evaluation | None, result: StageResult | None) -> tuple[str, ...]:
    stage = None if result is None else result.stage
    return (
        title,
        "-" if found is None else show.scored(found.value, found.metric),
        "-" if found is None else percent(found.drop),
        "-" if found is None else number(found.divergence),
        "-" if stage is None else number(stage.divergence),
        "-" if stage is None else str(len(stage.changes)),
        "-" if stage is None else duration(stage.seconds),
        "" if stage is None or stage.kept else "not kept",
    )


def layer_lines(allocation: Allocation) -> list[str]:
    """The layers of each width below the widest, by name."""
    found: dict[str, list[str]] = {}
    for layer, width in allocation.widths:
        found.setdefault(str(width), []).append(layer)
    wide = str(max(width for _, width in allocation.widths))
    return [
        f"{width}: {', '.join(names)}" if width != wide else f"{width}: the other {len(names)}"
        for width, names in sorted(found.items())
    ]


def _room(bits: Sequence[int]) -> str:
    """What weights of these bits take in a checkpoint."""
    rooms = {"half a byte" if b <= min(STORED) else "a byte" for b in bits}
    return " or ".join(sorted(rooms, reverse=True))


def _ending(job: Job, made: Piped, allocation: Allocation) -> Sequence[str]:
    costs, folder = allocation.costs, job.options.output
    lines = [
        f"  size {percent(costs.size)} of the float32 weights; all parameters "
        f"{costs.bytes / 1e6:.3g} MB; bit operations {percent(costs.relative_bops)} of 8 bits'"
        + ("" if costs.seconds is None else f"; {number(1e3 * costs.seconds)} ms"),
        f"  seed {job.session.seed}, {duration(made.pipeline.seconds)}",
    ]
    odd = sorted({w.weights for _, w in allocation.widths} - set(STORED))
    if odd:
        bits = ", ".join(map(str, odd))
        lines.append(
            f"  note: the size counts bits; a checkpoint stores {bits} bits in {_room(odd)}. "
            "--bits 8,4 allocates what it stores"
        )
    out = folder.with_name(f"{folder.name}-int8")
    return [*lines, f"next: {shlex.join(['qviz', 'export', str(folder), '-o', str(out)])}"]
