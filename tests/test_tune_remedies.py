"""Remedies: each on one site alone, measured against chance, streamed, and nothing else changed."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import networks
import pytest
from tune_kit import histograms, subject

import qviz
from qviz.calibrators import clip_range
from qviz.errors import Cancelled, RecipeError, TuneError
from qviz.intervals import Interval
from qviz.jobs import Job
from qviz.progress import Progress
from qviz.ranking import Sensitivity, SensitivityRow
from qviz.recipe import Override, Recipe, activation_grid, resolve
from qviz.session import Session
from qviz.tune import calibrator, more_bits
from qviz.tune.remedies import sites_of
from qviz.tune.remedy import FLOAT, TOGETHER, Remedies, verdict_of

RESIDUAL = networks.recipe("residual")
#: The tensor that conv2 reads, and the add; and the one that fc reads.
FIRST, SECOND = "relu:relu", "relu:relu.2"


def opened(run: Path | None = None) -> Session:
    model = networks.made(networks.Residual())
    images = [networks.inputs("residual", n, seed)[0] for n, seed in ((40, 1), (200, 2))]
    return qviz.open(model, (images[0], None), (images[1], None), "agreement", run_dir=run)


@functools.cache
def session() -> Session:
    return opened()


@functools.cache
def clipped() -> Recipe:
    """One tensor has a range far too small: its readers lose what is above it."""
    recipe = session().recipe("max")
    top = recipe.range_of[FIRST].hi * 0.3
    return recipe.with_range(FIRST, -top, top)


@functools.cache
def starved() -> Recipe:
    """Two ops have too few bits."""
    few = (Override("conv2", bits=3), Override("fc", bits=3))
    return session().recipe("max").override(*few)


@functools.cache
def found() -> Remedies:
    return session().remedies(starved(), sites=("conv2", "fc"))


# ---- what is found ----


def test_a_range_that_clips_is_cured_by_another_calibrator() -> None:
    (row,) = session().remedies(clipped(), sites=("conv2",)).best.values()
    assert row.method in ("calibrator", "ifmr", "hfmg")
    assert row.fall > 0.2
    assert row.fall_interval is not None
    assert row.fall_interval.low > 0


def test_too_few_bits_are_cured_by_more() -> None:
    best = found().best["fc"]
    assert (best.method, best.title) == ("more_bits", "More bits")
    assert best.verdict == "helps"


def test_every_attempt_starts_from_the_recipe_and_changes_its_site_alone() -> None:
    assert found().start == starved()
    for row in found().rows:
        assert row.before is session().evaluate(starved())
        assert session().evaluate(row.recipe) is row.after
        if row.tuning is not None:
            assert (row.tuning.start, row.tuning.ops) == (starved(), (row.site,))
    one = next(r for r in found().rows if r.site == "fc" and r.method == "calibrator")
    changed = [a.tensor for a, b in zip(one.recipe.ranges, starved().ranges, strict=True) if a != b]
    assert changed == [SECOND]


def test_the_site_in_float_stands_first_as_the_yardstick() -> None:
    for site in found().sites:
        rows = [r for r in found().rows if r.site == site]
        assert (rows[0].method, rows[0].verdict, rows[0].tuning) == (FLOAT, "yardstick", None)
        assert rows[0].recipe == starved().skip(site)
        falls = [r.fall for r in rows[1:]]
        assert falls == sorted(falls, reverse=True)
        assert sum(r.best for r in rows) == 1


def test_numbers_are_relative_to_the_recipe_before() -> None:
    before = session().evaluate(starved())
    for row in found().rows:
        assert row.fall == pytest.approx(1 - row.after.divergence / before.divergence)
        assert row.gain == pytest.approx(row.after.value / before.value - 1)
        assert row.interval.low <= row.gain <= row.interval.high


def test_the_best_of_all_sites_are_measured_together() -> None:
    together = found().together
    assert together is not None
    assert (together.site, together.method) == (TOGETHER, TOGETHER)
    assert together.title == "2 remedies together"
    assert together.fall > max(r.fall for r in found().best.values())
    assert session().evaluate(together.recipe) is together.after
    assert found().complete


def test_the_summary_names_the_best_and_the_sum() -> None:
    text = found().summary
    tried = sum(r.tuning is not None for r in found().rows)
    assert text.startswith(f"{tried} remedies tried, one helps on 2 of 2 sites; ")
    one, other = found().best.values()
    assert f"conv2: {one.title} (kl {-one.fall:+.0%})" in text
    assert f"fc: {other.title} (kl {-other.fall:+.0%})" in text
    assert "Together: agreement" in text


def test_what_to_go_on_with_is_the_sum_if_it_is_closer_to_float() -> None:
    assert found().taken is found().together
    alone = replace(found(), together=None)
    assert alone.taken is max(found().best.values(), key=lambda r: r.fall)
    assert replace(alone, rows=()).taken is None


def test_what_gives_the_same_range_is_measured_once() -> None:
    same = [n for n in found().notes if ": the same as " in n]
    assert same
    recipes = [r.recipe for r in found().rows if r.site == "fc" and r.tuning is not None]
    assert len({replace(r, calibrator="") for r in recipes}) == len(recipes)


def test_a_site_where_nothing_helps_has_no_best() -> None:
    good = session().recipe("max")
    rows = session().remedies(good, sites=("conv2",), methods=("calibrator",))
    assert all(r.verdict != "helps" or r.fall > r.luck > 0 for r in rows.rows)
    assert set(rows.best) <= {"conv2"}
    assert rows.together is None


# ---- verdicts ----


@pytest.mark.parametrize(
    ("metric", "fall", "sampled", "luck", "verdict"),
    [
        ((-0.1, 0.1), 0.3, (0.2, 0.4), 0.05, "helps"),
        ((-0.1, 0.1), 0.3, (-0.1, 0.6), 0.05, "noise"),
        ((-0.1, 0.1), 0.04, (0.02, 0.06), 0.05, "noise"),
        ((-0.1, 0.1), -0.3, (-0.4, -0.2), 0.05, "worse"),
        ((-0.2, -0.1), 0.0, (-0.1, 0.1), 0.05, "worse"),
        ((-0.2, -0.1), 0.3, (0.2, 0.4), 0.05, "mixed"),
        ((0.1, 0.2), -0.3, (-0.4, -0.2), 0.05, "mixed"),
        ((-0.1, 0.1), 0.3, None, 0.05, "helps"),
    ],
    ids=[
        "closer to float",
        "inside the interval",
        "no more than luck",
        "further from float",
        "the metric falls",
        "closer, but the metric falls",
        "further, but the metric rises",
        "no divergence per sample",
    ],
)
def test_verdicts(
    metric: tuple[float, float],
    fall: float,
    sampled: tuple[float, float] | None,
    luck: float,
    verdict: str,
) -> None:
    interval = None if sampled is None else Interval(*sampled)
    assert verdict_of(Interval(*metric), fall, interval, luck) == verdict


def test_luck_is_what_another_rounding_of_the_site_does() -> None:
    base = session().evaluate(starved()).divergence
    tensors = {FIRST}
    falls = []
    for factor in (0.996, 1.004):
        ranges = tuple(
            replace(r, lo=r.lo * factor, hi=r.hi * factor) if r.tensor in tensors else r
            for r in starved().ranges
        )
        shaken = session().evaluate(replace(starved(), ranges=ranges))
        falls.append(abs(shaken.divergence / base - 1))
    (luck,) = {r.luck for r in found().rows if r.site == "conv2"}
    assert luck == pytest.approx(max(falls))


# ---- progress, cancelling, record ----


def test_rows_arrive_one_by_one_and_the_last_is_what_is_returned() -> None:
    seen: list[Remedies] = []
    told: list[Progress] = []
    made = session().remedies(
        clipped(), sites=("conv2",), methods=("more_bits", "calibrator"),
        on_rows=seen.append, progress=told.append,
    )  # fmt: skip
    counts = [len(s.rows) + len(s.notes) for s in seen]
    assert counts == sorted(counts)
    assert seen[-1] is made
    assert [s.complete for s in seen] == [False] * (len(seen) - 1) + [True]
    assert told[-1].done == told[-1].total == len(told)


def test_it_can_be_stopped_and_keeps_what_it_found() -> None:
    seen: list[Remedies] = []

    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise Cancelled()

    with pytest.raises(Cancelled):
        session().remedies(clipped(), sites=("conv2",), on_rows=seen.append, progress=stop)
    assert len(seen[-1].rows) + len(seen[-1].notes) == 3
    assert not seen[-1].complete


def test_attempts_have_a_record_of_their_own(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    made = kept.remedies(clipped(), sites=("conv2",), methods=("calibrator", "bias_correction"))
    assert kept.run is not None
    rows = kept.run.rows("remedies")
    assert [r["method"] for r in rows].count("bias_correction") == 1
    assert len(rows) == sum(r.tuning is not None for r in made.rows)
    assert kept.tunings() == []


def test_a_job_publishes_remedies() -> None:
    from qviz import background
    from qviz.jobs import Worker

    worker = Worker()
    job: Job = worker.submit(
        "remedies",
        background.remedies(session(), clipped(), sites=("conv2",), methods=("more_bits",)),
    )
    shown = job.wait(30)
    assert shown.state == "done"
    assert isinstance(shown.result, Remedies)
    assert [r.method for r in shown.result.rows] == [FLOAT]


# ---- what is asked for ----


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(TuneError, match="method 'magic': does not exist"):
        session().remedies(clipped(), sites=("conv2",), methods=("magic",))


def test_a_site_without_int8_arithmetic_is_named() -> None:
    with pytest.raises(RecipeError) as caught:
        session().remedies(clipped(), sites=("relu:relu",))
    assert str(caught.value) == (
        "relu:relu: is no op with int8 arithmetic. List them with qviz info."
    )


def test_the_worst_ops_come_from_the_ranking() -> None:
    def row(name: str, rank: int) -> SensitivityRow:
        return SensitivityRow(name, "conv2d", 1.0, None, None, None, None, 0, False, rank, rank)

    names = ["b/weight", "a/input", "b/input", "c"]
    ranking = Sensitivity(
        tuple(row(n, i) for i, n in enumerate(names)), "only_this", "both", "top1", "kl"
    )
    assert sites_of(ranking, 2) == ("b", "a")
    assert session().remedies(clipped(), sites=1, methods=("more_bits",)).sites[0] in {
        op.name for op in session().graph.quantizable
    }


# ---- the two methods that only remedies and people use on single ops ----


def test_another_calibrator_gives_its_range_to_the_tensors_asked_for() -> None:
    given = subject("residual", ops=("conv2",))
    step = calibrator.apply(given, calibrator="percentile:99.9")
    grid = activation_grid(RESIDUAL, given.graph, FIRST, 8)
    clip = clip_range(histograms("residual")[FIRST], "percentile:99.9", grid)
    own = step.recipe.range_of[FIRST]
    assert (own.lo, own.hi, own.calibrator) == (clip.lo, clip.hi, "percentile:99.9")
    assert [c.target for c in step.changes] == [FIRST]
    assert calibrator.sites(given) == (FIRST,)


def test_more_bits_for_the_ops_asked_for_and_ranges_for_the_wider_grid() -> None:
    narrow = replace(RESIDUAL, weight_bits=3, activation_bits=4)
    given = subject("residual", narrow, ops=("conv2",))
    step = more_bits.apply(given, weight_bits=6)
    bits = {n: d.bits for n, d in resolve(step.recipe, given.graph).items()}
    assert (bits["conv2/weight"], bits["conv2/input"]) == (6, 8)
    assert (bits["conv3/weight"], bits["conv3/input"]) == (3, 4)
    assert [(c.target, c.before, c.after) for c in step.changes] == [
        ("conv2/input", 4, 8),
        ("conv2/weight", 3, 6),
    ]
    assert more_bits.sites(given) == ("conv2",)


def test_more_bits_leaves_float_operands_and_wide_ones() -> None:
    recipe = replace(RESIDUAL, weight_bits=4).skip("conv1")
    recipe = recipe.override(Override("conv3/weight", bits=8))
    assert set(more_bits.sites(subject("residual", recipe))) == {"conv2", "fc"}
    with pytest.raises(TuneError) as caught:
        more_bits.apply(subject("residual"))
    assert str(caught.value) == (
        "more bits: no quantized operand has fewer than 8 (weights) or 8 bits (activations). "
        "Leave the op in float instead."
    )
