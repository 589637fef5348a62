"""The verb that applies one method of ``qviz.tune``: measured before and after, kept by name."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.cli_open import Job, chosen, keep
from qviz.cli_remember import REMEMBERED, stored_options
from qviz.cli_verbs import work
from qviz.digits import duration
from qviz.errors import InputError

if TYPE_CHECKING:
    from qviz.tune.methods import Method
    from qviz.tune.result import Tuning

#: Rows of what changed that are printed.
ROWS = 12
#: What a model is opened with where neither the command nor a run says it.
_USUAL = {"profile": "cuda", "seed": 0}
#: Options that name files or folders, and those that name code or something built in: a run is
#: opened where it was made, but these are of the folder that the command is given in.
_FILES = ("calibration", "evaluation", "train", "confirm", "weights", "preprocessing", "start")
_CODE = ("metric", "loader", "loss", "optimizer")


def tune(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Apply a method, or list them.

    Raises:
        InputError: there is no such method or option, or no model.
    """
    from qviz.tune.methods import method
    from qviz.tune.step import options_of

    if options.list:
        return listed(options)
    if not options.method:
        raise InputError("qviz tune", "no method is named", "Give --method, one of --list")
    options_of(method(options.method).module.OPTIONS, dict(options.option))
    with of_run(options):
        return work(_tune, options, command)


@contextlib.contextmanager
def of_run(options: argparse.Namespace) -> Iterator[None]:
    """Fill in how a run was opened where a run folder stands for the model; work where it was made.

    What the command says goes over what the run remembers, as where the model itself is named; what
    the folder's rows do not allow is refused when it is opened.

    Raises:
        InputError: no model, no folder to write to, or a folder that is no run of a command.
    """
    if options.model is None:
        raise InputError(f"qviz {options.verb}", "no model is named", "Give a model or a run")
    folder = Path(options.model)
    if not (folder / "manifest.json").exists():
        if options.output is None:
            raise InputError(f"qviz {options.verb}", "no run folder is named", "Give one with -o")
        _fill(options, _USUAL)
        yield
        return
    options.output = (options.output or folder).resolve()
    for name in (*_FILES, *_CODE):
        if getattr(options, name, None):
            setattr(options, name, _absolute(getattr(options, name), code=name in _CODE))
    stored = stored_options(folder)
    if not stored.get("model"):
        raise InputError(
            str(folder),
            "how its model was opened is not known, because it was not made on the command line",
            "Name the model and its data",
        )
    known = {k: v for k, v in stored.items() if k in REMEMBERED and v is not None}
    known = {**dict.fromkeys(REMEMBERED), **_USUAL, **known}
    own = folder.resolve() / "recipe.json"
    if hasattr(options, "start") and own.exists() and not _says_recipe(options, known["profile"]):
        options.start = str(own)
    options.model = known["model"]
    _fill(options, known)
    there = Path(str(stored.get("cwd") or Path.cwd()))
    with contextlib.chdir(there if there.is_dir() else Path.cwd()):
        yield


def _says(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name, None) is not None


def _fill(options: argparse.Namespace, values: Mapping[str, object]) -> None:
    """Give what the command does not say."""
    for name, value in values.items():
        if not _says(options, name):
            setattr(options, name, value)


def _says_recipe(options: argparse.Namespace, profile: object) -> bool:
    """Whether the command says what recipe to start from; else a run goes on from its own."""
    usual = {"start": None, "calibrator": "auto", "weight_bits": 8, "activation_bits": 8}
    said = any(getattr(options, name, value) != value for name, value in usual.items())
    other = _says(options, "profile") and options.profile != profile
    return said or other or bool(options.per_tensor or options.ends_at_8)


def _absolute(spec: str, *, code: bool) -> str:
    """A path, also ``file.py:name``, made independent of the working folder; there or not."""
    from qviz.loading_factory import is_factory

    if spec.startswith("sample:"):
        return spec
    path, _, name = spec.rpartition(":")
    if is_factory(spec) and not Path(spec).exists():
        file = path if path.endswith(".py") else f"{path}.py"  # module:name of this folder
        here = path == file or Path(file).is_file()
        return f"{Path(file).absolute()}:{name}" if here else spec
    return spec if code else str(Path(spec).absolute())


def _tune(job: Job) -> tuple[str, dict[str, object], int]:
    options, session = job.options, job.session
    recipe = chosen(job)
    name = options.name or free_name(options.method, tuple(session.variants))
    ops = [part.strip() for part in options.ops.split(",")] if options.ops else None
    made = session.tune(
        options.method, recipe, ops=ops, progress=job.meter.tell, **dict(options.option)
    )
    path = keep(job, name, made.recipe)
    result = {
        **made.row(),
        "start": None,
        "variant": name,
        "recipe": str(path),
        "weights": made.recipe.weights,
        "noise": made.noise,
        "changed": made.changes,
    }
    return text_of(job, made, name, path), result, 0


def free_name(name: str, taken: Sequence[str]) -> str:
    """``name``, or ``name-2`` ... if it is taken."""
    count, found = 1, name
    while found in taken:
        count += 1
        found = f"{name}-{count}"
    return found


def text_of(job: Job, made: Tuning, name: str, path: Path) -> str:
    """What a method did and how it was measured, for a person."""
    given = ", ".join(f"{k} {v}" for k, v in made.options.items())
    lines = [
        f"{made.title}{f' ({given})' if given else ''}: {duration(made.seconds)}, seed {made.seed}",
        f"calibration  {made.calibration} samples it could fit on"
        + (f"; {made.training} training samples" if made.training else ""),
        f"evaluation   {made.evaluation} samples it was measured on, and not fitted on",
        "",
        *_measured(made),
        "",
        f"{len(made.changes)} changes" + (f", the first {ROWS}" * (len(made.changes) > ROWS)),
        *([_changes(made)] if made.changes else []),
        *(f"note: {note}" for note in made.notes),
        "",
        f"kept as variant {name}: {path}",
    ]
    folder, out = (
        job.options.output,
        job.options.output.with_name(f"{job.options.output.name}-int8"),
    )
    words = ["qviz", "export", str(folder), "--recipe", str(path), "-o", str(out)]
    return "\n".join([*lines, f"next: {shlex.join(words)}"])


def _measured(made: Tuning) -> list[str]:
    before, after, interval = made.before, made.after, made.interval
    if before is None or after is None or interval is None:
        return ["not measured: there are no evaluation data"]
    name, metric = after.divergence_name, after.metric
    rows = [
        (
            text,
            show.scored(one.value, metric),
            show.percent(one.drop),
            show.number(one.divergence),
        )
        for text, one in (("before", before), ("after", after))
    ]
    table = show.table(("", metric.name, "drop from float", f"{name} from float"), rows, indent="")
    noise = "noise: the interval contains 0" if made.noise else "beyond noise"
    gain = f"gain {show.percent(made.gain, signed=True)}, 95 % {show.span(interval)}: {noise}"
    return [f"float        {metric.name} {show.scored(after.reference.value, metric)}", table, gain]


def _changes(made: Tuning) -> str:
    return show.table(
        ("op or tensor<", "what<", "before", "after", "<", "<"),
        (
            (
                show.short(c.target),
                c.what,
                show.number(c.before),
                show.number(c.after),
                c.unit,
                c.note,
            )
            for c in made.changes[:ROWS]
        ),
    )


def listed(options: argparse.Namespace) -> int:
    """Every method: what it does, its options, what it costs and needs, where it comes from."""
    from qviz.tune.methods import METHODS

    if options.json:
        rows = [{**as_json.plain(m), "options": m.module.OPTIONS} for m in METHODS.values()]
        print(as_json.text(rows))
    else:
        print("\n\n".join(_about(m) for m in METHODS.values()))
    return 0


def _about(method: Method) -> str:
    needs = ", ".join(method.needs) or "calibration data only"
    lines = [
        f"{method.name}: {method.title}. {method.what}",
        f"  takes {method.cost}; needs {needs}; source: {method.source}",
    ]
    for option in method.module.OPTIONS:
        bounds = ", ".join(option.choices)
        if option.low is not None or option.high is not None:
            low = "" if option.low is None else f"{option.low:g}"
            bounds = f"{low} to {'' if option.high is None else f'{option.high:g}'}".strip()
        words = f"{option.help}{f' [{bounds}]' if bounds else ''}"
        lines.append(f"  --option {option.name}={option.default}  {words}")
    return "\n".join(lines)
