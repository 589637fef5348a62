"""The strategy ``amct``: roll back the fewest layers that satisfy the evaluator, by bisection.

    the evaluator accepts the float model's own accuracy      else its rule is wrong
    everything int8, measured                                 accepted: done
    layers ranked by the cosine of their outputs              least similar first
    bisection of how many of them go back to float            each length measured

It assumes that the accuracy grows with every layer that is rolled back. If only the float model is
accepted there is no output. ``auto_amct_files.py`` writes the three JSON files.

Source: AMCT, ``accuracy_based_auto_calibration`` with ``strategy="BinarySearch"`` and
``sensitivity="CosineSimilarity"``.
"""

from __future__ import annotations

from collections.abc import Callable

from qviz import records
from qviz.auto import Action, AutoStep
from qviz.auto_amct_files import Record, write_files
from qviz.auto_calibrators import base_recipe, recipe_key
from qviz.auto_cosine import similarities
from qviz.auto_judge import Verdict
from qviz.auto_work import Tried, Work
from qviz.digits import number
from qviz.errors import MetricError
from qviz.intervals import relative_change
from qviz.progress import OnProgress
from qviz.tune.code_digest import code_digest

#: Accuracy of the float model and of another -> (accepted, loss).
Evaluator = Callable[[float, float], tuple[bool, float]]
#: AMCT's calibrator of activations.
CALIBRATOR = "ifmr"


def within(max_drop: float, *, higher_is_better: bool) -> Evaluator:
    """The evaluator that accepts a relative drop of at most ``max_drop``."""

    def evaluator(original: float, new: float) -> tuple[bool, float]:
        change = relative_change(new, original)
        loss = -change if higher_is_better else change
        return loss <= max_drop, loss

    return evaluator


class RollBack(Work):
    """Work whose best is the accepted variant with the fewest layers rolled back."""

    @property
    def best(self) -> AutoStep | None:
        """The last accepted one: the bisection only gets shorter."""
        accepted = [s for s in self.steps if s.outcome == "kept"]
        return accepted[-1] if accepted else None

    @property
    def met(self) -> bool:
        """Whether the evaluator accepted one."""
        return self.best is not None


def amct(work: RollBack, evaluator: Evaluator) -> tuple[str, tuple[str, ...]]:
    """Go through the strategy.

    Returns:
        Why it ended, in words, and the files written.

    Raises:
        MetricError: the evaluator does not accept the float model itself.
        InputError: everything int8 could not be measured.
    """
    session = work.session
    spec = (work.options.calibrators or (CALIBRATOR,))[0]
    original = session.evaluate(None, progress=work.progress).value
    if not evaluator(original, original)[0]:
        raise MetricError(
            "evaluator",
            f"it does not accept the float model's own {session.metric.name} of {original:g}",
            "Accept equal values",
        )
    bisection = _Bisection(work, evaluator, original, spec)
    ended = bisection.run()
    if work.first_error is not None and not bisection.records:
        raise work.first_error
    return ended, write_files(session, bisection.ranking or {}, bisection.records, work.best)


def shortest(layers: int, accepts: Callable[[int], bool]) -> int | None:
    """The fewest layers to roll back, by bisection; None if only all of them will do.

    With all of them rolled back the model is the float one, so that is not asked.

    Args:
        layers: how many there are.
        accepts: whether so many rolled back are enough.
    """
    left, right, found = 0, layers - 1, None
    while left <= right:
        middle = (left + right) // 2
        if middle + 1 == layers:  # only if nothing shorter was enough
            return None
        if accepts(middle + 1):
            right, found = middle - 1, middle + 1
        else:
            left = middle + 1
    return found


class _Stopped(Exception):  # noqa: N818 - not a failure
    """A variant could not be measured, for want of time or because of an error."""


class _Bisection:
    def __init__(self, work: RollBack, evaluator: Evaluator, original: float, spec: str) -> None:
        self.work, self.evaluator, self.original, self.spec = work, evaluator, original, spec
        self.ranking: dict[str, float] | None = None
        self.records: list[Record] = []

    def run(self) -> str:
        """Search the shortest prefix; the words say why it ended."""
        work = self.work
        try:
            if self.accepts(0):
                return "everything int8 satisfies the evaluator"
            ranking = self.ranked(work.progress)
            found = shortest(len(ranking), self.accepts)
        except _Stopped:
            reached = "nothing was accepted so far" if work.best is None else work.best.title
            return f"{work.steps[-1].reason}: {reached}"
        if found is None:
            self.records.append(Record(tuple(ranking), len(ranking), True, 0.0))
            return "only the float model satisfies the evaluator: all layers rolled back, no output"
        return f"{_layers(found)} rolled back: no fewer satisfy the evaluator"

    def accepts(self, count: int) -> bool:
        """Whether the evaluator accepts the model with so many layers rolled back."""
        title = f"everything int8, {self.spec}" if count == 0 else f"{_layers(count)} rolled back"

        def do(tell: OnProgress) -> Tried:
            session = self.work.session
            session.calibrate((self.spec,), progress=tell)
            worst = tuple(self.ranked(tell))[:count]
            recipe = base_recipe(self.work, self.spec)
            after = session.evaluate(recipe.skip(*worst), progress=tell)
            before = session.evaluate(recipe) if count else None
            way = (Action("calibrate", self.spec), Action("skip", names=worst))
            return Tried(recipe.skip(*worst), after, before, way if count else way[:1])

        def judge(tried: Tried) -> Verdict:
            accepted, loss = self.evaluator(self.original, tried.after.value)
            words = "satisfies" if accepted else "does not satisfy"
            return accepted, f"it {words} the evaluator (loss {number(loss)})"

        rule = (self.work.options.max_drop, code_digest(self.evaluator))
        key = (self.spec, recipe_key(self.work), rule)
        step = self.work.attempt("roll back", _layers(count), title, do, judge, key=key)
        if step.after is None:
            raise _Stopped
        accepted, loss = self.evaluator(self.original, step.after)
        self.records.append(Record(tuple(self.ranked(self.work.progress)), count, accepted, loss))
        return accepted

    def ranked(self, tell: OnProgress | None) -> dict[str, float]:
        """Similarity of every layer, the least similar first; measured once per run folder."""
        if self.ranking is None:
            session, recipe = self.work.session, base_recipe(self.work, self.spec)
            key = f"cosine {records.digest(recipe)} {records.graph_key(session.graph)}"
            found = records.kept_proxy(
                session.run,
                f"{key} {session.batch_size}",
                lambda: similarities(
                    session.simulator_of(recipe),
                    recipe,
                    session.calibration_data,
                    batch_size=session.batch_size,
                    progress=tell,
                ),
            )
            self.ranking = dict(sorted(found.items(), key=lambda item: item[1]))
        return self.ranking


def _layers(count: int) -> str:
    return f"{count} {'layer' if count == 1 else 'layers'}"
