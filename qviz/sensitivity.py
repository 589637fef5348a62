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
from functools import cache

from qviz.data import Data
from qviz.errors import RecipeError
from qviz.evaluate import Outputs, outputs
from qviz.execute import Edits
from qviz.graph import Graph
from qviz.metrics import Metric
from qviz.progress import OnProgress, Reporter
from qviz.ranking import (
    Granularity,
    Measured,
    Mode,
    Operands,
    Sensitivity,
    SensitivityRow,
    spearman,
)
from qviz.recipe import Recipe, resolve
from qviz.scoreboard import Scoreboard, scored
from qviz.simulate import Simulator
from qviz.sweep import sweep

__all__ = [
    "Granularity",
    "Measured",
    "Mode",
    "Operands",
    "Sensitivity",
    "SensitivityRow",
    "measure",
    "spearman",
    "targets_of",
    "variant",
]

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
        on_rows: called with the ranking so far: at once if there are estimates or known parts,
            then after each part.
        progress: told after each part.

    Raises:
        RecipeError: the recipe leaves nothing int8.
    """
    groups = targets_of(recipe, simulator.graph, operands=operands, granularity=granularity)
    base = simulator.edits(recipe.only() if mode == "only_this" else recipe)
    board = Scoreboard(
        simulator.graph, groups, reference, metric, mode, operands, dict(proxy or {})
    )
    if mode == "all_but_this":
        board.set_base(outputs(simulator.program, data, base, batch_size=batch_size).values)
    for earlier in known:
        board.add(earlier)
    if board.complete:
        return board.ranking(ties=True)
    if on_rows is not None and (proxy or known):
        on_rows(board.ranking(ties=False))
    report = Reporter("sensitivity", len(groups) * data.count, progress, known=board.samples_done())

    def edits(names: tuple[str, ...]) -> Callable[[], Edits]:
        # kept: every shard of the data asks again
        return cache(lambda: simulator.edits(variant(recipe, names, mode)))

    parts = sweep(
        simulator,
        data,
        base,
        {key: edits(names) for key, names in groups.items()},
        batch_size=batch_size,
        budget=budget,
        order=board.order,
        finished=board.finished,
    )
    for part in parts:
        measured = scored(part, reference, metric)
        if save is not None:
            save(measured)
        board.add(measured)
        if on_rows is not None:
            on_rows(board.ranking(ties=False))
        report.step(part.key, len(part.values))
    return board.ranking(ties=True)
