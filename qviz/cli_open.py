"""From options to a session and a recipe, and back from a run folder to the options it was made by.

What cannot work is refused before anything is computed or written: an unknown calibrator, profile
or op is an error after a second, not after an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qviz.cli_progress import Meter, parts_of
from qviz.errors import DataError, RecipeError, RunFolderError

if TYPE_CHECKING:
    from qviz.calibration import Calibration, CalibratorRow
    from qviz.recipe import Recipe
    from qviz.session import Session

#: The file in a run folder that keeps them.
OPTIONS = "options.json"
#: Options a run folder remembers, to open the same model and data again.
REMEMBERED = (
    "model",
    "weights",
    "calibration",
    "evaluation",
    "preprocessing",
    "metric",
    "profile",
    "batch_size",
    "memory_budget",
    "fold",
    "seed",
)
#: Of these, what finished rows depend on, with the file that holds them: another value needs
#: another folder.
FIXED = {
    "batch_size": (32, "sensitivity.jsonl"),
    "memory_budget": (2 << 30, "sensitivity.jsonl"),
    "fold": (True, "histograms.npz"),
}


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


def remembered(options: argparse.Namespace) -> dict[str, object]:
    """The options that ``options.json`` keeps."""
    return {name: getattr(options, name, None) for name in REMEMBERED}


def settle(options: argparse.Namespace, folder: Path) -> None:
    """Fill in what was not said from the run folder, or from the defaults.

    Raises:
        RunFolderError: what was said differs from what the folder's rows were measured with.
    """
    stored = stored_options(folder) if folder.is_dir() else {}
    for name, (default, file) in FIXED.items():
        said = getattr(options, name)
        before = stored.get(name) if (folder / file).exists() else None
        if said is not None and before is not None and said != before:
            raise RunFolderError(
                str(folder),
                f"what is in {file} was measured with {_words(name, before)}, now {said}",
                "Repeat that, or name another run folder",
            )
        chosen = said if said is not None else before
        setattr(options, name, default if chosen is None else chosen)


def _words(name: str, value: object) -> str:
    return f"{'batch norm folding' if name == 'fold' else name.replace('_', ' ')} {value}"


def stored_options(folder: Path) -> dict[str, Any]:
    """What ``options.json`` of a run folder holds; empty if there is none.

    Raises:
        RunFolderError: it is damaged.
    """
    path = folder / OPTIONS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as failure:
        raise RunFolderError(
            str(path), "it cannot be read", "Delete it, and repeat the command that made the run"
        ) from failure
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def opened_again(folder: Path, options: argparse.Namespace) -> Iterator[argparse.Namespace]:
    """The options that a run was made with, in the working folder it was made in.

    Raises:
        RunFolderError: there is no run, or its options are not known.
    """
    from qviz.store import RunFolder

    RunFolder.view(folder)
    stored = stored_options(folder)
    if not stored.get("model"):
        raise RunFolderError(
            str(folder),
            "how its model was opened is not known, because it was not made on the command line",
            "Export it in Python with session.export()",
        )
    known = {name: stored.get(name) for name in REMEMBERED}
    there = Path(str(stored.get("cwd") or Path.cwd()))
    with contextlib.chdir(there if there.is_dir() else Path.cwd()):
        yield argparse.Namespace(**{**vars(options), **known})


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
    options = job.options
    made = job.session.recipe(
        calibrator,
        weight_bits=options.weight_bits,
        activation_bits=options.activation_bits,
        per_channel=not options.per_tensor,
    )
    return made.skip(*options.skip)


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
    """The recipe to work on: of the calibrator asked for, or of the best one.

    Args:
        job: what runs.
        rows: of ``compared``, if that was done already.
    """
    calibrated(job)
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
    return found
