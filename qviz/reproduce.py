"""The commands and the Python that do a recipe again, as text to copy."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from qviz.recipe import Recipe
from qviz.records import digest
from qviz.session import Session
from qviz.store_files import replace_file, reported

#: What a run folder remembers of how its model was opened (``cli_remember.py`` writes it).
OPTIONS = "options"
#: Arguments of ``qviz.open`` that name files, and those that do not with their defaults.
FILES = ("calibration", "evaluation", "metric", "weights", "preprocessing")
_PLAIN = {
    "profile": ("profile", "cuda"),
    "batch_size": ("batch_size", 32),
    "fold": ("fold_batch_norm", True),
    "seed": ("seed", 0),
}


def save_recipe(run: Path, recipe: Recipe) -> Path:
    """Keep exactly this recipe in a run folder, under a name that no other recipe has.

    So that what is printed today still means the same when the draft has changed.

    Raises:
        RunFolderError: it cannot be written.
    """
    path = (run / f"recipe-{digest(recipe)[:8]}.json").resolve()
    with reported(path):
        if not path.exists():
            replace_file(path, recipe.to_json().encode())
    return path


def commands(
    run: Path, recipe: Path, folder: Path, formats: Sequence[str] = ("checkpoint",)
) -> str:
    """Export a recipe, verify it again and report on it, on the command line.

    Args:
        run: the run folder.
        recipe: file that holds the recipe.
        folder: to export to.
        formats: to write.
    """
    again = ["--recipe", str(recipe)]
    wanted = [] if tuple(formats) == ("checkpoint",) else ["--formats", ",".join(formats)]
    lines = [_command("qviz export", run, *again, *wanted, "-o", str(folder))]
    proof = []
    if "checkpoint" in formats:  # the format that computes, so that it can be verified
        lines.append(_command("qviz verify", folder))
        proof = ["--checkpoint", str(folder)]
    lines.append(_command("qviz report", run, *again, *proof))
    return "\n".join(lines)


def _command(verb: str, thing: Path, *options: str) -> str:
    """A command, one line per option."""
    pairs = zip(options[::2], options[1::2], strict=True)
    return " \\\n    ".join(
        (f"{verb} {shlex.quote(str(thing))}", *(f"{a} {shlex.quote(b)}" for a, b in pairs))
    )


def opened_with(session: Session) -> Mapping[str, object] | None:
    """How the session's run was opened; None if that is not known, as for a model in memory."""
    found = None if session.run is None else session.run.read_json(OPTIONS)
    return found if isinstance(found, dict) and found.get("model") else None


def snippet(
    options: Mapping[str, object],
    recipe: Path,
    folder: Path,
    formats: Sequence[str] = ("checkpoint",),
    *,
    run: Path | None = None,
) -> str:
    """Python that opens the same model and data, measures a recipe and exports it.

    Args:
        options: how it was opened, see ``opened_with``.
        recipe: file that holds the recipe.
        folder: to export to.
        formats: to write.
        run: run folder that holds the recipe's tuned weights, if it has any.
    """
    there = Path(str(options.get("cwd") or Path.cwd()))
    given = [repr(absolute(options["model"], there))]
    for name in FILES:
        if options.get(name):
            given.append(f"{name}={absolute(options[name], there)!r}")
    for name, (argument, default) in _PLAIN.items():
        if (value := options.get(name)) is not None and value != default:
            given.append(f"{argument}={value!r}")
    if run is not None:
        given.append(f"run_dir={str(run)!r}")
    opened = f"qviz.open({', '.join(given)})"
    if len(given) > 1:
        opened = "qviz.open(\n" + "".join(f"    {one},\n" for one in given) + ")"
    return f"""\
from pathlib import Path

import qviz

session = {opened}
recipe = qviz.Recipe.from_json(Path({str(recipe)!r}).read_text())
found = session.evaluate(recipe)
print(found.metric.name, found.value, "float", found.reference.value)
session.export(recipe, {str(folder)!r}, formats={list(formats)!r})
"""


def absolute(spec: object, folder: Path) -> str:
    """A path of then, also ``file.py:name``, made independent of the working folder."""
    path, colon, name = str(spec).partition(":")
    return f"{folder / path}{colon}{name}" if path and (folder / path).exists() else str(spec)
