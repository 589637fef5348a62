"""CalibTIP's pipelines in a session: every stage measured, its weights kept, the record written.

The run folder keeps one row per pipeline in ``allocations.jsonl``: what was asked for, what each
stage gave, seed, sample counts and time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qviz.allocating import check_labels, layer_losses
from qviz.evaluate import Evaluation
from qviz.progress import OnProgress
from qviz.recipe import Recipe
from qviz.search import pipelines
from qviz.search.allocation_json import allocation_to
from qviz.search.choosing import Choose, Within, offered_to
from qviz.search.layer_losses import LayerLosses
from qviz.search.mixing import Networks
from qviz.search.pipelines import Options, Pipeline, PipelineName, Stage
from qviz.search.widths import Limit, Width
from qviz.session import Session
from qviz.tuning import measured

MADE = "allocations"


@dataclass(frozen=True, eq=False)
class StageResult:
    """A stage of a pipeline, measured.

    Attributes:
        stage: what it did.
        recipe: with the weights of the stage; that of a stage that was not kept is not kept.
        evaluation: on the evaluation data; None without, and for a stage that was not kept.
    """

    stage: Stage
    recipe: Recipe
    evaluation: Evaluation | None


@dataclass(frozen=True, eq=False)
class Piped:
    """What a pipeline made of a recipe.

    Attributes:
        pipeline: its stages, losses and allocation.
        start: the recipe it began with.
        before: it at 8 bits, measured; None without evaluation data.
        stages: in order.
    """

    pipeline: Pipeline
    start: Recipe
    before: Evaluation | None
    stages: tuple[StageResult, ...]

    @property
    def last(self) -> StageResult:
        """The last stage that was kept: the result."""
        return next(s for s in reversed(self.stages) if s.stage.kept)


def pipeline(
    session: Session,
    name: PipelineName,
    choose: Limit | Choose,
    recipe: Recipe,
    *,
    widths: Sequence[Width],
    calibrator: str = "auto",
    losses: LayerLosses | None = None,
    samples: int | None = None,
    metric: bool = False,
    options: Options | None = None,
    variant: str | None = None,
    on_stage: Callable[[StageResult], None] | None = None,
    progress: OnProgress | None = None,
) -> Piped:
    """Run a pipeline; every stage is measured on the evaluation data.

    Args:
        session: the model and its data.
        name: ``plain``, ``light`` or ``advanced``.
        choose: a limit, or what chooses the allocation (``choosing.Within``).
        recipe: where to start; it stays as it is.
        widths: what is offered.
        calibrator: of activations below 8 bits.
        losses: measured before or elsewhere; None measures them.
        samples: calibration samples that losses are measured on; None takes all.
        metric: measure the metric beside the losses.
        options: of the methods used, by method.
        variant: keep the result under that name.
        on_stage: called with each finished stage.
        progress: told how far it is.

    Raises:
        TuneError: the limit cannot be met, an option is of a method that the pipeline does not
            run, or AdaQuant cannot be applied.
        MetricError: the metric needs labels and the calibration data has none.
        RangeError: a method has no such option, or its value is out of bounds.
    """
    chooses = Within(choose) if isinstance(choose, Limit) else choose
    subject = session.subject(recipe, progress=progress)
    pipelines.read_options(name, options or {})  # all that can be refused is, before the work
    chooses.check(offered_to(subject, widths) if losses is None else losses)
    if metric and losses is None:
        check_labels(session)
    before = measured(session, recipe, progress)
    results: list[StageResult] = []

    def take(stage: Stage) -> None:
        chosen, evaluation = stage.recipe, None
        if stage.kept:
            if stage.weights:
                tuned = session.tuned(recipe).then(stage.weights)
                chosen = replace(chosen, weights=session.add_weights(tuned))
            evaluation = measured(session, chosen, progress)
        results.append(StageResult(stage, chosen, evaluation))
        if on_stage is not None:
            on_stage(results[-1])

    def losses_of(prepared: Networks) -> LayerLosses:
        return losses or layer_losses(
            session, prepared, metric=metric, samples=samples, progress=progress
        )

    made = pipelines.run(
        subject,
        name,
        chooses,
        widths=widths,
        measure=losses_of,
        calibrator=calibrator,
        options=options,
        on_stage=take,
    )
    piped = Piped(made, recipe, before, tuple(results))
    _note(session, piped)
    if variant is not None:
        session.keep(variant, piped.last.recipe)
    return piped


def _note(session: Session, piped: Piped) -> None:
    """One row of what was made, with seed, sample counts and time."""
    if session.run is None:
        return
    evaluation = session.evaluation_data
    session.run.append(
        MADE,
        {
            "pipeline": piped.pipeline.name,
            "allocation": allocation_to(piped.pipeline.allocation),
            "start": piped.start.to_json(),
            "recipe": piped.last.recipe.to_json(),
            "stages": [stage_row(result) for result in piped.stages],
            "seconds": piped.pipeline.seconds,
            "seed": session.seed,
            "samples": {
                "losses": piped.pipeline.losses.samples,
                "calibration": session.calibration_data.count,
                "held_out": piped.pipeline.held_out,
                "evaluation": 0 if evaluation is None else evaluation.count,
            },
        },
    )


def stage_row(result: StageResult) -> dict[str, Any]:
    """A stage as plain values."""
    stage, evaluation = result.stage, result.evaluation
    return {
        "name": stage.name,
        "kept": stage.kept,
        "divergence": stage.divergence,
        "seconds": stage.seconds,
        "changes": len(stage.changes),
        "notes": list(stage.notes),
        "value": None if evaluation is None else evaluation.value,
        "drop": None if evaluation is None else evaluation.drop,
        "interval": None if evaluation is None else asdict(evaluation.interval),
    }
