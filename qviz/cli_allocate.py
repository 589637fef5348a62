"""The verb that gives every op its bits: losses, the frontier, the allocation, what it scores."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qviz.cli_allocate_print import text_of
from qviz.cli_open import Job, chosen, keep
from qviz.cli_options_allocate import check_options
from qviz.cli_tune import of_run
from qviz.cli_verbs import work
from qviz.digits import percent
from qviz.errors import RecipeError, TuneError

if TYPE_CHECKING:
    from qviz.allocating_pipeline import Piped
    from qviz.recipe import Recipe
    from qviz.search.allocation_problem import Problem, Times
    from qviz.search.layer_losses import LayerLosses
    from qviz.search.mixing import Networks
    from qviz.search.widths import Allocation, CostKind, Frontier, Layer, Limit, Width

#: Name of the variant unless one is given.
NAME = "allocated"
#: The target where no limit is given.
MAX_DROP = 0.01


def allocate(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Allocate bits.

    Raises:
        InputError: something named does not exist, or the limit cannot be met.
    """
    from qviz import calibrators
    from qviz.search.pipelines import read_options

    if (options.weight_bits, options.activation_bits) != (8, 8):
        raise RecipeError(
            "qviz allocate",
            "starts from 8 bits, whatever --weight-bits and --activation-bits say",
            "Leave them out and name what is offered with --bits",
        )
    check_options(options)
    if options.low_calibrator != "auto":
        calibrators.parse(options.low_calibrator)
    read_options(options.pipeline, _by_method(options))
    options.losses = [
        path.resolve() for path in options.losses
    ]  # a run is opened where it was made
    options.allocation = options.allocation and options.allocation.resolve()
    options.times = [(width, folder.resolve()) for width, folder in options.times]
    with of_run(options):
        return work(_allocate, options, command)


class _Chooser:
    """Chooses the allocation once losses are known, by way of the frontier, which it keeps."""

    def __init__(self, job: Job, times: Times | None) -> None:
        self.job, self.times = job, times
        self.frontier: Frontier | None = None
        self.found = True

    def check(self, offered: LayerLosses) -> None:
        """Refuse what cannot work whatever the losses are."""
        from qviz.search.allocation import check, check_solver

        options, limit = self.job.options, limit_of(self.job.options)
        problem = self._problem(offered)
        if options.allocation is not None:
            given(problem, options)
            return
        check_solver()
        if limit is None:
            problem.least(cost_kind(options))
        else:
            check(problem, limit, cost=cost_kind(options))

    def _problem(self, losses: LayerLosses) -> Problem:
        from qviz.search.allocation_problem import Problem

        return Problem.of(losses, keep=_kept(self.job.options, losses.layers), times=self.times)

    def __call__(self, networks: Networks, losses: LayerLosses) -> Allocation:
        from qviz import allocating
        from qviz.search.allocation import allocate, check
        from qviz.search.frontier import cheapest, limits_of

        options, session = self.job.options, self.job.session
        problem = self._problem(losses.by_metric() if options.by == "metric" else losses)
        limit, cost = limit_of(options), cost_kind(options)
        if options.allocation is not None:
            return given(problem, options)
        if limit is not None and limit.kind != "loss":
            check(problem, limit)  # before the frontier, which takes its time
        self.frontier = allocating.frontier(
            session,
            networks,
            problem,
            cost,
            limits=limits_of(problem, cost, options.points),
            with_greedy=options.greedy,
            progress=self.job.meter.tell,
        )
        if limit is not None:
            return allocate(problem, limit, cost=cost)
        try:
            return cheapest(self.frontier, _target(options)).allocation
        except TuneError:
            self.found = False
            return problem.base()


def _allocate(job: Job) -> tuple[str, dict[str, object], int]:
    from qviz.allocating_pipeline import pipeline
    from qviz.export.calibtip_csv import texts
    from qviz.search.preparing import base_recipe, offered

    options, session, meter = job.options, job.session, job.meter
    start: Recipe = base_recipe(chosen(job))
    layers = _layers(job, start)
    losses = _read(job, start, layers)
    widths = offered(options.bits, activations(options))
    if options.allocation is not None:
        widths = tuple(sorted({*widths, *_given_widths(options, layers)}, reverse=True))
    elif losses is not None:
        losses = losses.only(widths)
        _check_offered(options, losses)
    if losses is not None and options.by == "metric":
        losses.by_metric()  # refuses losses without it, before anything is tuned
    chooser = _Chooser(job, _times(options, layers, widths))
    made = pipeline(
        session,
        options.pipeline,
        chooser,
        start,
        widths=widths,
        calibrator=options.low_calibrator,
        losses=losses,
        samples=options.samples,
        metric=options.by == "metric",
        options=_by_method(options),
        progress=meter.tell,
    )
    path = keep(job, options.name or NAME, made.last.recipe)
    session.save("recipe", made.last.recipe)
    assert session.run is not None  # open_job made it
    if losses is None:
        for file, text in texts(made.pipeline.losses).items():
            session.run.write_text(file, text)
    reached = _reached(options, made)
    said = _missed(options, made, found=chooser.found, reached=reached)
    result = {"reached": reached, **_result(made, chooser, str(path))}
    return text_of(job, made, chooser.frontier, said), result, 0 if reached else 1


def _reached(options: argparse.Namespace, made: Piped) -> bool:
    """Whether the last stage kept is measured within the drop, where that is what was asked for."""
    if options.allocation is not None or limit_of(options) is not None:
        return True
    found = made.last.evaluation
    return found is not None and found.drop <= _target(options)


def _missed(options: argparse.Namespace, made: Piped, *, found: bool, reached: bool) -> list[str]:
    """What a person should know of the drop that was asked for."""
    if not found:
        after = ", which does after the last stage" if reached else ""
        return [
            f"No allocation measured keeps to the drop asked for: everything is at 8 bits{after}"
        ]
    if reached:
        return []
    last = made.last.evaluation
    return [
        f"After the last stage the drop is {percent(last.drop if last else None)}, more than the "
        f"{percent(_target(options))} asked for"
    ]


def _result(made: Piped, chooser: _Chooser, path: str) -> dict[str, object]:
    from qviz.allocating_pipeline import stage_row
    from qviz.search.allocation_json import allocation_to, frontier_to, losses_to

    found = made.last.evaluation
    frontier = chooser.frontier
    return {
        "pipeline": made.pipeline.name,
        "allocation": allocation_to(made.pipeline.allocation),
        "losses": losses_to(made.pipeline.losses),
        "frontier": None if frontier is None else frontier_to(frontier),
        "before": None if made.before is None else made.before.value,
        "float": None if found is None else found.reference.value,
        "value": None if found is None else found.value,
        "drop": None if found is None else found.drop,
        "stages": [stage_row(stage) for stage in made.stages],
        "seconds": made.pipeline.seconds,
        "recipe": path,
    }


def limit_of(options: argparse.Namespace) -> Limit | None:
    """The limit that the options give; None where a measured drop decides."""
    from qviz.search.widths import Limit

    if options.size is not None:
        return Limit(options.size[0], options.size[1])
    if options.bops is not None:
        return Limit("bops", options.bops)
    if options.latency is not None:
        return Limit("latency", options.latency)
    return None if options.max_loss is None else Limit("loss", options.max_loss)


def cost_kind(options: argparse.Namespace) -> CostKind:
    """What the frontier sweeps, and what is made least under a limit on loss or drop."""
    limit = limit_of(options)
    if limit is not None and limit.kind != "loss":
        return limit.kind
    kind: CostKind = options.cost or "size"
    return kind


def activations(options: argparse.Namespace) -> str:
    """Bits of activations: kept where only weights are limited, unless said otherwise."""
    given: str | None = options.activations
    limits_weights = options.size is not None and options.allocation is None
    return given or ("8" if limits_weights else "same")


def _target(options: argparse.Namespace) -> float:
    return MAX_DROP if options.max_drop is None else float(options.max_drop)


def _kept(options: argparse.Namespace, layers: Sequence[Layer]) -> list[str]:
    ends = [] if options.ends_at_8 is False else [layer.name for layer in layers if layer.end]
    return list(dict.fromkeys([*ends, *options.keep]))


def _layers(job: Job, start: Recipe) -> tuple[Layer, ...]:
    from qviz.search.layers import layers_of

    return layers_of(job.session.graph_of(start), start)


def _read(job: Job, start: Recipe, layers: Sequence[Layer]) -> LayerLosses | None:
    from qviz.export.calibtip_csv import read_losses
    from qviz.search.layers import rest_of

    if not job.options.losses:
        return None
    return read_losses(job.options.losses, layers, rest_of(job.session.graph_of(start), layers))


def _check_offered(options: argparse.Namespace, losses: LayerLosses) -> None:
    if not losses.rows:
        raise TuneError(
            f"losses of {losses.data}",
            "are at none of the widths offered",
            "Name their widths with --bits and --activations",
        )


def _given_widths(options: argparse.Namespace, layers: Sequence[Layer]) -> set[Width]:
    from qviz.export.calibtip_csv import read_widths

    return set(read_widths(options.allocation, layers, _row(options)).values())


def _row(options: argparse.Namespace) -> float | None:
    return None if options.size is None else float(options.size[1])


def given(problem: Problem, options: argparse.Namespace) -> Allocation:
    """The allocation of a file, with what it costs and is predicted to lose."""
    from qviz.export.calibtip_csv import read_widths

    widths = read_widths(options.allocation, problem.losses.layers, _row(options))
    for name, width in widths.items():
        layer, base = problem.losses.layer_of[name], problem.losses.base
        if not layer.elements and width.activations == base.activations:
            widths[name] = base  # without a weight it is the same
        elif (name, width) not in problem.losses.increase_of:
            raise TuneError(
                f"{name} at {width}",
                f"its loss is not among those of {problem.losses.data or 'this model'}",
                "Name a file that has it with --losses, or give the op another width",
            )
    return problem.allocation(widths, None, "given")


def _times(
    options: argparse.Namespace, layers: Sequence[Layer], widths: Sequence[Width]
) -> Times | None:
    from qviz.int8.timing_file import times_in
    from qviz.search.widths import Width

    if not options.times:
        return None
    folders = {Width.parse(text): folder for text, folder in options.times}
    return times_in(folders, layers, widths)


def _by_method(options: argparse.Namespace) -> dict[str, dict[str, float | int | str | bool]]:
    found: dict[str, dict[str, float | int | str | bool]] = {}
    for method, name, value in options.option:
        found.setdefault(method, {})[name] = value
    return found
