"""A step of tuning: what a method is given, and what it gives back.

Every method is a module with ``OPTIONS``, ``sites(subject)`` and ``apply(subject, **options)``
(methods.py lists them); ``sites`` takes the options that are marked so too. ``apply`` is pure: it
changes neither the graph nor the recipe, it gives new weights, a new recipe and the rows of what
changed. Steps compose: ``after`` is the subject that the next method starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qviz.calibrators import clip_range
from qviz.data import Data
from qviz.errors import RangeError
from qviz.graph import Graph
from qviz.histogram import Histogram
from qviz.observe import observe
from qviz.progress import OnProgress
from qviz.recipe import Recipe, TensorRange, activation_grid, resolve
from qviz.simulate import Simulator
from qviz.weights import NOTHING, TunedWeights, tuned_graph


@dataclass(frozen=True, eq=False)
class Subject:
    """What a method is given.

    Attributes:
        simulator: of the graph as it is now, with all that was tuned before.
        recipe: the decision it is tuned for.
        calibration: what methods fit on; never the evaluation data.
        original: of the untouched float model, the target of distillation.
        observed: gives the histograms of ``calibration`` on this graph; made when asked for.
        ops: change only these ops or tensors; None changes all.
        training: for methods that train, None if there is none.
        seed: of everything random.
        batch_size: samples per forward pass.
        progress: told how far the method is; what it raises stops it.
    """

    simulator: Simulator
    recipe: Recipe
    calibration: Data
    original: Simulator
    observed: Callable[[], Mapping[str, Histogram]]
    ops: tuple[str, ...] | None = None
    training: Data | None = None
    seed: int = 0
    batch_size: int = 32
    progress: OnProgress | None = None

    @property
    def graph(self) -> Graph:
        """The model as it is now."""
        return self.simulator.graph

    def histograms(self) -> Mapping[str, Histogram]:
        """Histograms of the calibration data on this graph, by tensor."""
        return self.observed()

    def wants(self, name: str) -> bool:
        """Whether an op or tensor is among those to change."""
        return self.ops is None or name in self.ops

    def after(self, step: Step) -> Subject:
        """The subject for the next method."""
        if not step.weights:
            return replace(self, recipe=step.recipe)
        simulator = Simulator(tuned_graph(self.graph, step.weights))
        made: dict[str, Mapping[str, Histogram]] = {}

        def observed() -> Mapping[str, Histogram]:
            if "" not in made:
                made[""] = observe(simulator.program, self.calibration, progress=self.progress)
            return made[""]

        return replace(self, simulator=simulator, recipe=step.recipe, observed=observed)


@dataclass(frozen=True)
class Change:
    """One thing that a step changed.

    Attributes:
        target: op, operand or tensor.
        what: ``weight``, ``bias``, ``range``, ``bits``, ``limit``.
        before: a number that says how it was, None if there is none.
        after: the same number afterwards.
        unit: what the number is: ``mse``, ``amax``, ``bits`` ...
        note: in words, if a number does not say it all.
    """

    target: str
    what: str
    before: float | None
    after: float | None
    unit: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Step:
    """What a method gives.

    Attributes:
        recipe: the new decision; ``recipe.weights`` is set by whoever keeps the weights.
        weights: what changed, relative to the subject's graph; None if no parameter did.
        changes: what changed, row by row.
        notes: what a person should know: sites left alone and why, what was noise.
        record: numbers for the record: iterations, MACs spent ... plain values.
    """

    recipe: Recipe
    weights: TunedWeights | None
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    record: Mapping[str, float | int | str] = field(default_factory=dict)

    def following(self, first: Step) -> Step:
        """Both steps as one, ``first`` before this."""
        return Step(
            self.recipe,
            (first.weights or NOTHING).then(self.weights) or None,
            (*first.changes, *self.changes),
            (*first.notes, *self.notes),
            {**first.record, **self.record},
        )


@dataclass(frozen=True)
class Option:
    """One option of a method, as every face shows it.

    Attributes:
        name: keyword of ``apply``.
        default: value when it is not given; its type is the option's.
        help: one sentence.
        low: smallest number allowed.
        high: largest number allowed.
        choices: allowed texts; empty if it is a number or a switch.
        sites: whether it decides where the method applies: a keyword of ``sites`` too.
    """

    name: str
    default: float | int | str | bool
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    sites: bool = False

    def read(self, value: object) -> float | int | str | bool:
        """A value of the option's type, from a number or a text as a command line gives it.

        Raises:
            RangeError: it is none, or out of bounds.
        """
        if isinstance(self.default, bool):
            return self._switch(value)
        if isinstance(self.default, str):
            return self._choice(str(value))
        return self._number(value)

    def _switch(self, value: object) -> bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        found = known.get(str(value).lower())
        if found is None:
            raise RangeError(f"option {self.name}", f"{value} is no yes or no", "Write yes or no")
        return found

    def _choice(self, value: str) -> str:
        if value not in self.choices:
            raise RangeError(
                f"option {self.name}",
                f"there is no {value}",
                f"Choose one of {', '.join(self.choices)}",
            )
        return value

    def _number(self, value: object) -> float | int:
        number: float | int | None
        try:
            number = int(str(value)) if isinstance(self.default, int) else float(str(value))
        except ValueError:
            number = None
        low = -float("inf") if self.low is None else self.low
        high = float("inf") if self.high is None else self.high
        if number is None or not low <= number <= high:
            what = "whole number" if isinstance(self.default, int) else "number"
            raise RangeError(
                f"option {self.name}",
                f"{value} is no {what} from {low:g} to {high:g}",
                f"Leave it out for {self.default}",
            )
        return number


def options_of(
    known: Sequence[Option], given: Mapping[str, object]
) -> dict[str, float | int | str | bool]:
    """All options of a method, those given and the defaults of the others.

    Raises:
        RangeError: one is unknown, or a value is out of bounds.
    """
    names = {o.name: o for o in known}
    for name in given:
        if name not in names:
            raise RangeError(
                f"option {name}",
                "the method has none of that name",
                f"Use {', '.join(names)}" if names else "Give none",
            )
    return {o.name: o.read(given[o.name]) if o.name in given else o.default for o in known}


def reranged(
    subject: Subject,
    weights: TunedWeights | None,
    recipe: Recipe,
    tensors: Sequence[str] | None = None,
) -> Recipe:
    """The recipe with ranges that fit the tuned graph: each anew, by its own calibrator.

    A range that a person set, or that a fit learned, keeps its numbers.

    Args:
        subject: before the change.
        weights: what was changed, relative to the subject's graph.
        recipe: whose ranges are renewed.
        tensors: only these; None renews all.
    """
    moved = subject.after(Step(recipe, weights, ()))
    histograms, graph = moved.histograms(), moved.graph
    bits = bits_of(recipe, graph)
    ranges = []
    for known in recipe.ranges:
        h = histograms.get(known.tensor)
        if (tensors is None or known.tensor in tensors) and h is not None and h.finite:
            ranges.append(_again(known, h, recipe, graph, bits.get(known.tensor, 8)))
        else:
            ranges.append(known)
    return replace(recipe, ranges=tuple(ranges))


def bits_of(recipe: Recipe, graph: Graph) -> dict[str, int]:
    """Bit width of each activation tensor that is read as int8: the narrowest of its readers.

    It has the fewest steps to spend: a range made for the widest loses more (on a ResNet-20 with
    4-bit convs and 8-bit adds the divergence is 1.2 times, with 3 bits 1.3 to 1.6 times as large).
    """
    decisions = resolve(recipe, graph)
    found: dict[str, int] = {}
    for operand in graph.operands.values():
        if operand.kind == "activation" and decisions[operand.name].int8:
            width = decisions[operand.name].bits
            found[operand.tensor] = min(width, found.get(operand.tensor, width))
    return found


def _again(
    known: TensorRange, h: Histogram, recipe: Recipe, graph: Graph, bits: int
) -> TensorRange:
    if known.calibrator.partition(":")[0] == "fixed":
        return known
    grid = activation_grid(recipe, graph, known.tensor, bits)
    try:
        clip = clip_range(h, known.calibrator, grid)
    except RangeError:  # not a calibrator: a method's own range
        return known
    return replace(known, lo=clip.lo, hi=clip.hi)
