"""Remedies: for the sites that hurt most, try every method of seconds on that site alone.

A ranking says which op costs how much; this says what to do about it. Each attempt starts from the
same recipe, changes one site, and is measured on the same samples as the recipe itself. Two things
keep it honest:

* every number has a paired bootstrap interval, and a difference inside it is called noise;
* rounding is a lottery: another rounding of the same site changes the divergence too. So the site's
  ranges are moved by less than half a percent, both ways, which helps nobody; what is no larger
  than what that did is noise as well (``Remedy.luck``).

"Left in float" is measured beside the remedies: a remedy wins more than that only where it serves
other readers of the same tensor too (a range belongs to the tensor). The best remedies of all sites
are at last applied one after the other and measured together. All numbers are of the evaluation
data, and the best of a dozen looks better there than it is: confirm what is chosen on other data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qviz.errors import TuneError
from qviz.evaluate import Evaluation
from qviz.progress import OnProgress, Reporter
from qviz.ranking import Sensitivity
from qviz.recipe import Recipe, TensorRange, resolve
from qviz.tune.methods import METHODS, Method
from qviz.tune.methods import method as method_of
from qviz.tune.remedy import (
    FLOAT,
    TOGETHER,
    Options,
    Remedies,
    Remedy,
    fall_of,
    gain_of,
    verdict_of,
)
from qviz.tune.result import Tuning
from qviz.tune.step import Step, Subject

#: Methods that make a model smaller, not better.
_STORAGE = {"codebook", "nuq", "pruning"}
#: Factors on a site's ranges that help nobody.
_SHAKES = (0.996, 1.004)
#: Two ranges that differ by less are one.
_SAME = 0.01


@dataclass(frozen=True)
class Bench:
    """What remedies are made and measured with; a session gives it.

    Attributes:
        subject: what a method is given for a recipe and the ops it may change.
        finish: a step of a method as a measured Tuning:
            ``(method, step, start, options, ops, seconds)``.
        measure: a recipe on the evaluation data.
        seed: of the bootstrap.
    """

    subject: Callable[[Recipe, tuple[str, ...]], Subject]
    finish: Callable[[Method, Step, Recipe, Options, tuple[str, ...], float], Tuning]
    measure: Callable[[Recipe], Evaluation]
    seed: int = 0


OnRows = Callable[[Remedies], None]


def sites_of(ranking: Sensitivity, worst: int) -> tuple[str, ...]:
    """The worst ops of a ranking; an operand stands for its op."""
    ops = [row.name.partition("/")[0] for row in ranking.rows]
    return tuple(dict.fromkeys(ops))[:worst]


def find(
    bench: Bench,
    start: Recipe,
    sites: Sequence[str],
    *,
    methods: Sequence[str] | None = None,
    on_rows: OnRows | None = None,
    progress: OnProgress | None = None,
) -> Remedies:
    """Try every applicable method of seconds on each site.

    Args:
        bench: makes and measures.
        start: the recipe to improve.
        sites: ops, worst first.
        methods: names in ``METHODS``; None is all that cost seconds and win accuracy.
        on_rows: called with all there is after each attempt.
        progress: told after each attempt.

    Raises:
        TuneError: a name in ``methods`` is unknown.
    """
    work = _Work(bench, start, tuple(sites), on_rows)
    plan = {site: work.plan(site, _chosen(methods)) for site in sites}
    total = sum(len(found) + 1 for found in plan.values()) + 1
    work.report = Reporter("remedies", total, progress)
    for site, attempts in plan.items():
        work.shake(site)
        work.yardstick(site)
        for tried, options in attempts:
            work.attempt(site, tried, options)
    work.together()
    return work.found


def _chosen(names: Sequence[str] | None) -> list[Method]:
    if names is not None:
        return [method_of(name) for name in names]
    return [m for m in METHODS.values() if m.cost == "seconds" and m.name not in _STORAGE]


class _Work:
    """Attempts on one recipe; ``found`` grows."""

    def __init__(
        self, bench: Bench, start: Recipe, sites: tuple[str, ...], on_rows: OnRows | None
    ) -> None:
        self.bench, self.start, self.on_rows = bench, start, on_rows
        self.found = Remedies(start, bench.measure(start), sites)
        self.luck: dict[str, float] = {}
        self.report = Reporter("remedies", 0, None)
        self.seen: dict[str, list[tuple[str, Recipe]]] = {s: [("it is", start)] for s in sites}

    def plan(self, site: str, methods: Sequence[Method]) -> list[tuple[Method, Options]]:
        """What can be tried on a site."""
        subject = self.bench.subject(self.start, (site,))
        able: list[tuple[Method, Options]] = []
        for method in methods:
            try:
                applicable = bool(method.module.sites(subject))
            except TuneError:
                applicable = False
            if not applicable:
                continue
            choices = [o for o in method.module.OPTIONS if o.name == "calibrator"]
            if choices:
                able += [(method, {"calibrator": spec}) for spec in choices[0].choices]
            else:
                able.append((method, {}))
        return able

    def shake(self, site: str) -> None:
        """Find out what another rounding of the site does by itself."""
        base = self.found.before.divergence
        tensors = self._tensors(site)
        falls = [0.0]
        for factor in _SHAKES if tensors and base > 0 else ():
            ranges = tuple(
                replace(r, lo=r.lo * factor, hi=r.hi * factor) if r.tensor in tensors else r
                for r in self.start.ranges
            )
            shaken = self.bench.measure(replace(self.start, ranges=ranges))
            falls.append(abs(shaken.divergence - base) / base)
        self.luck[site] = max(falls)

    def yardstick(self, site: str) -> None:
        """The site in float."""
        recipe = self.start.skip(site)
        after = self.bench.measure(recipe)
        row = self._row(site, FLOAT, {}, "left in float", None, recipe, after)
        self._add(replace(row, verdict="yardstick"))

    def attempt(self, site: str, method: Method, options: Options) -> None:
        """One method on one site, unless it gives what was tried before."""
        words = ", ".join(str(v) for v in options.values())
        title = f"{method.title}: {words}" if words else method.title
        try:
            step, finish = self._step(self.start, site, method, options)
            if (same := self._same(site, step)) is not None:
                return self._note(f"{site}: {title}: the same as {same}")
            tuning = finish()
        except TuneError as refusal:
            return self._note(f"{site}: {title}: {refusal.reason}")
        self.seen[site].append((title, tuning.recipe))
        assert tuning.after is not None
        row = self._row(site, method.name, options, title, tuning, tuning.recipe, tuning.after)
        return self._add(row)

    def together(self) -> None:
        """The best of every site, one after the other; each fits what the ones before left."""
        made: list[Tuning] = []
        best = self.found.best
        for site, row in best.items() if len(best) > 1 else ():
            start = made[-1].recipe if made else self.start
            try:
                made.append(self._step(start, site, METHODS[row.method], row.options)[1]())
            except TuneError as refusal:
                self._note(f"together, {site}: {row.title}: {refusal.reason}", step=False)
        if len(made) > 1:
            last, title = made[-1], f"{len(made)} remedies together"
            assert last.after is not None
            sum_ = self._row(TOGETHER, TOGETHER, {}, title, last, last.recipe, last.after)
            self.found = replace(self.found, together=sum_)
        self.found = replace(self.found, complete=True)
        self._tell("together")

    def _step(
        self, start: Recipe, site: str, method: Method, options: Options
    ) -> tuple[Step, Callable[[], Tuning]]:
        """A method applied to a site, and what measures it."""
        began = time.monotonic()
        given = {o.name: o.default for o in method.module.OPTIONS} | dict(options)
        step = method.module.apply(self.bench.subject(start, (site,)), **given)
        seconds = time.monotonic() - began
        return step, lambda: self.bench.finish(method, step, start, given, (site,), seconds)

    def _same(self, site: str, step: Step) -> str | None:
        """The attempt that gave the same recipe, None if there is none."""
        if step.weights:
            return None
        known = [(t, r) for t, r in self.seen[site] if r.weights == self.start.weights]
        return next((title for title, recipe in known if _alike(recipe, step.recipe)), None)

    def _row(
        self,
        site: str,
        method: str,
        options: Options,
        title: str,
        tuning: Tuning | None,
        recipe: Recipe,
        after: Evaluation,
    ) -> Remedy:
        before, luck = self.found.before, self.luck.get(site, max(self.luck.values(), default=0.0))
        gain, interval = gain_of(before, after, self.bench.seed)
        fall, fall_interval = fall_of(before, after, self.bench.seed)
        return Remedy(
            site,
            method,
            options,
            title,
            tuning,
            recipe,
            before,
            after,
            gain,
            interval,
            fall,
            fall_interval,
            luck,
            verdict_of(interval, fall, fall_interval, luck),
        )

    def _add(self, row: Remedy) -> None:
        rows = [*self.found.rows, row]
        ordered: list[Remedy] = []
        for site in self.found.sites:
            own = [replace(r, best=False) for r in rows if r.site == site]
            own.sort(key=lambda r: (r.verdict != "yardstick", -r.fall))
            first = next((i for i, r in enumerate(own) if r.verdict == "helps"), None)
            if first is not None:
                own[first] = replace(own[first], best=True)
            ordered += own
        self.found = replace(self.found, rows=tuple(ordered))
        self._tell(f"{row.site}: {row.title}")

    def _note(self, text: str, *, step: bool = True) -> None:
        self.found = replace(self.found, notes=(*self.found.notes, text))
        if step:
            self._tell(text)

    def _tell(self, message: str) -> None:
        if self.on_rows is not None:
            self.on_rows(self.found)
        self.report.step(message)

    def _tensors(self, site: str) -> set[str]:
        graph = self.bench.subject(self.start, (site,)).graph
        decisions = resolve(self.start, graph)
        operands = graph.ops[site].operands
        return {o.tensor for o in operands if o.kind == "activation" and decisions[o.name].int8}


def _alike(a: Recipe, b: Recipe) -> bool:
    """Whether two recipes differ by nothing but ranges that are nearly equal."""
    if replace(a, ranges=(), weights="") != replace(b, ranges=(), weights=""):
        return False
    return all(
        x.tensor == y.tensor and _near(x, y) for x, y in zip(a.ranges, b.ranges, strict=True)
    )


def _near(a: TensorRange, b: TensorRange) -> bool:
    span = max(a.hi - a.lo, b.hi - b.lo)
    return abs(a.hi - b.hi) <= _SAME * span and abs(a.lo - b.lo) <= _SAME * span
