"""From options to a session, and from a session to the recipe that the options ask for.

What cannot work is refused before anything is computed or written: an unknown calibrator, profile
or op is an error after a second, not after an hour.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qviz.cli_progress import Meter, parts_of
from qviz.cli_remember import OPTIONS, remembered, settle
from qviz.errors import DataError, RecipeError

if TYPE_CHECKING:
    from qviz.calibration import Calibration, CalibratorRow
    from qviz.recipe import Recipe
    from qviz.session import Session


#: What a variant may be called: its recipe is a file of that name.
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Job:
    """One command at work.

    Attributes:
        options: as parsed.
        command: the words of the command line.
        meter: shows progress and warnings.
        session: the model and its data.
    """

    options: argparse.Namespace
    command: tuple[str, ...]
    meter: Meter
    session: Session


def prepare(options: argparse.Namespace) -> None:
    """Threads and random numbers, before the user's code runs."""
    import numpy as np
    import torch

    if getattr(options, "threads", None):
        torch.set_num_threads(options.threads)
    seed = getattr(options, "seed", 0)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def open_job(
    options: argparse.Namespace,
    command: Sequence[str],
    meter: Meter,
    *,
    folder: Path,
    evaluates: bool = True,
) -> Job:
    """Open the model and data that the options name, with a run folder.

    Raises:
        InputError: something cannot be used, or the folder belongs to another model, other data
            or another batch size.
    """
    from qviz import opening

    prepare(options)
    _check_data(options, evaluates=evaluates)
    check_recipe(options)
    settle(options, folder)
    session = opening.open(
        options.model,
        options.calibration,
        options.evaluation,
        options.metric,
        weights=options.weights,
        preprocessing=options.preprocessing,
        run_dir=folder,
        profile=options.profile,
        batch_size=options.batch_size,
        memory_budget=options.memory_budget,
        fold_batch_norm=options.fold,
        training=getattr(options, "train", None),
        seed=options.seed,
        command=tuple(command),
    )
    _check_skips(session, options)
    if session.evaluation_data is not None:  # else it would be found out after calibration
        session.simulator.program.inputs(next(session.evaluation_data.head(1).batches(1)))
    assert session.run is not None  # a run folder was named
    known = {**remembered(options), "cwd": str(Path.cwd())}
    session.run.write_text(OPTIONS, json.dumps(known, indent=2) + "\n")
    meter.warn(session.warnings)
    return Job(options, tuple(command), meter, session)


def check_recipe(options: argparse.Namespace) -> None:
    """Refuse a profile, calibrator or bit width that does not exist.

    Raises:
        InputError: it names the option's value and what there is.
    """
    from qviz import calibrators
    from qviz.profiles import profile

    bits = profile(options.profile).bits
    if not hasattr(options, "calibrator"):
        return
    name = getattr(options, "name", None)
    if name is not None and not _NAME.fullmatch(name):
        raise RecipeError(
            f"--name {name}", "it is not a plain name", "Use letters, digits, dots, - and _"
        )
    if getattr(options, "start", None) is not None and _says_a_recipe(options):
        raise RecipeError(
            f"--from {options.start}",
            "it brings its own calibrator and bits",
            "Leave out --calibrator, --weight-bits, --activation-bits, --per-tensor, --ends-at-8",
        )
    if options.calibrator != "auto":
        calibrators.parse(options.calibrator)
    for name in ("weight_bits", "activation_bits"):
        width = getattr(options, name)
        if width not in bits:
            raise RecipeError(
                f"--{name.replace('_', '-')} {width}",
                f"profile {options.profile} has no such width",
                f"Choose one of {', '.join(map(str, bits))}",
            )


def _says_a_recipe(options: argparse.Namespace) -> bool:
    bits = (options.weight_bits, options.activation_bits)
    plain = options.calibrator == "auto" and bits == (8, 8)
    return not plain or options.per_tensor or options.ends_at_8 is not None


def _check_data(options: argparse.Namespace, *, evaluates: bool) -> None:
    if str(options.model).startswith("sample:"):
        return
    if not options.calibration:
        raise DataError("calibration data", "are missing", "Give some with --calibration")
    if evaluates and not options.evaluation:
        raise DataError("evaluation data", "are missing", "Give some with --evaluation")


def _check_skips(session: Session, options: argparse.Namespace) -> None:
    from qviz.recipe import Recipe, resolve

    if getattr(options, "skip", None):
        resolve(Recipe(profile=options.profile).skip(*options.skip), session.graph)


def calibrated(job: Job) -> Calibration:
    """The pass over the calibration data, with the calibrator asked for among the candidates."""
    from qviz.calibration import specs_with
    from qviz.calibrators import DEFAULT_CANDIDATES

    specs = specs_with(DEFAULT_CANDIDATES, getattr(job.options, "calibrator", "auto"))
    found = job.session.calibrate(specs, progress=job.meter.tell)
    job.meter.warn(job.session.warnings)
    return found


def recipe_for(job: Job, calibrator: str) -> Recipe:
    """The recipe that the options ask for, with one calibrator's ranges."""
    from qviz import auto_ends

    options = job.options
    return auto_ends.recipe_for(
        job.session,
        calibrator,
        weight_bits=options.weight_bits,
        activation_bits=options.activation_bits,
        per_channel=not options.per_tensor,
        ends_at_8=bool(options.ends_at_8),
        skip=options.skip,
    )


def compared(job: Job) -> tuple[CalibratorRow, ...]:
    """Every candidate calibrator measured under the options, the chosen one marked as best."""
    from qviz.calibration import compare_calibrators

    found = calibrated(job)
    session, meter = job.session, job.meter
    session.reference(progress=meter.tell)
    meter.warn(session.warnings)
    part = parts_of(meter.tell, "calibrators", len(found.specs) + 1)
    index = iter(range(len(found.specs) + 1))
    return compare_calibrators(
        found,
        lambda r: session.evaluate(r, progress=part(next(index))),
        lambda spec: recipe_for(job, spec),
    )


def chosen(job: Job, rows: Sequence[CalibratorRow] | None = None) -> Recipe:
    """The recipe to work on: the one named, of the calibrator asked for, or of the best one.

    Args:
        job: what runs.
        rows: of ``compared``, if that was done already.
    """
    calibrated(job)
    if (start := getattr(job.options, "start", None)) is not None:
        found = read_recipe(start, job.session)
        if found.profile != job.options.profile:
            job.meter.warn([f"{start}: follows profile {found.profile}, not {job.options.profile}"])
        return found.skip(*job.options.skip)
    spec = job.options.calibrator
    if spec == "auto":
        spec = next(r.calibrator for r in rows or compared(job) if r.best)
    return recipe_for(job, spec)


def read_recipe(path: str | Path, session: Session) -> Recipe:
    """A recipe file that fits the session's model.

    Raises:
        RecipeError: it cannot be read, is no recipe, or names what the model does not have.
    """
    from qviz.recipe import Recipe, resolve

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        why = getattr(failure, "strerror", None) or "it is not text"
        raise RecipeError(str(path), str(why).lower(), "Name a recipe.json") from failure
    found = Recipe.from_json(text, str(path))
    resolve(found, session.graph)
    _adopt_weights(found, Path(path), session)
    return found


def _adopt_weights(recipe: Recipe, path: Path, session: Session) -> None:
    """Take over the tuned weights of a recipe from the run folder that its file lies in."""
    from qviz.store import RunFolder
    from qviz.weights import TunedWeights

    try:
        session.tuned(recipe)
    except RecipeError:
        arrays = None
        if (path.parent / "manifest.json").exists():
            arrays = RunFolder.view(path.parent).read_arrays(f"weights-{recipe.weights}")
        if arrays is None:
            raise
        session.add_weights(TunedWeights.from_arrays(arrays))


def keep(job: Job, name: str, recipe: Recipe) -> Path:
    """Keep a recipe as a variant of the run, and as a file that ``--from`` takes; its path."""
    job.session.keep(name, recipe)
    job.session.save(f"recipe-{name}", recipe)
    folder: Path = job.options.output
    return folder / f"recipe-{name}.json"
