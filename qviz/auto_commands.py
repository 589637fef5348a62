"""The commands that repeat a result: from the model and its data to the exported checkpoint.

A variant remembers the way it was made (``Action``). Each part of it is one command; where one part
has to hand a recipe to the next, it names it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from qviz.auto import Action, AutoOptions
from qviz.reproduce import FILES, absolute

#: Options of how a run was opened that a command has to repeat, with the defaults it need not say.
_OPENING = {
    "weights": None,
    "calibration": None,
    "evaluation": None,
    "preprocessing": None,
    "metric": None,
    "profile": "cuda",
    "batch_size": 32,
    "memory_budget": 2 << 30,
    "seed": 0,
}
#: What is kept under a command that is not the last one.
_STEP = "step-{}"


def commands(
    way: Sequence[Action],
    opened: Mapping[str, object],
    options: AutoOptions,
    folder: str,
    name: str = "best",
) -> tuple[str, ...]:
    """What to type to make a variant again, and to export it.

    Args:
        way: how it was made.
        opened: how model and data were opened (``options.json`` of the run folder).
        options: of the escalation.
        folder: run folder to make it in; a new one, so that everything is done again.
        name: of the result.
    """
    if not way or way[0].verb != "calibrate":
        return ()
    start = ["--calibrator", way[0].name, *_recipe_options(options)]
    lines, made = [], ""
    todo = _joined(way[1:])
    for index, action in enumerate(todo or [Action("skip")]):
        last = index >= len(todo) - 1
        keep = name if last else _STEP.format(index + 1)
        taken = "--recipe" if action.verb == "skip" else "--from"  # of evaluate, of the others
        begin = start if not made else [taken, made]
        words = [*begin, *_verb_options(action, options), *_named(action, keep)]
        lines.append(_command(_verb(action), opened, words, folder))
        made = f"{folder}/{'recipe' if action.verb == 'search' else f'recipe-{keep}'}.json"
    lines.append(shlex.join(["qviz", "export", folder, "--recipe", made, "-o", f"{folder}-int8"]))
    return tuple(lines)


def _joined(way: Sequence[Action]) -> list[Action]:
    return [a for a in way if a.verb != "skip" or a.names]


def _verb(action: Action) -> str:
    return "evaluate" if action.verb == "skip" else action.verb


def _named(action: Action, name: str) -> list[str]:
    return [] if action.verb == "search" else ["--name", name]  # a search writes recipe.json


def _verb_options(action: Action, options: AutoOptions) -> list[str]:
    if action.verb == "search":
        more = [word for k, v in action.options for word in (f"--{k}", v)]
        return ["--max-drop", f"{options.max_drop:g}", "--method", action.name, *more]
    if action.verb == "skip":
        return [word for name in action.names for word in ("--skip", name)]
    words = ["--method", action.name]
    words += [word for k, v in action.options for word in ("--option", f"{k}={v}")]
    return words + (["--ops", ",".join(action.names)] if action.names else [])


def _recipe_options(options: AutoOptions) -> list[str]:
    words = []
    if options.weight_bits != 8:
        words += ["--weight-bits", str(options.weight_bits)]
    if options.activation_bits != 8:
        words += ["--activation-bits", str(options.activation_bits)]
    if not options.per_channel:
        words.append("--per-tensor")
    if _keeps_ends(options):
        words.append("--ends-at-8")
    return words + [word for name in options.skip for word in ("--skip", name)]


def _command(verb: str, opened: Mapping[str, object], words: Sequence[str], folder: str) -> str:
    there = Path(str(opened.get("cwd") or Path.cwd()))
    given = ["qviz", verb, absolute(opened["model"], there)]
    for option, default in _OPENING.items():
        value = opened.get(option)
        if value is not None and value != default:
            said = absolute(value, there) if option in FILES else str(value)
            given += [f"--{option.replace('_', '-')}", said]
    if verb == "tune" and opened.get("train"):
        given += ["--train", absolute(opened["train"], there)]
    if opened.get("fold") is False:
        given.append("--no-fold-batch-norm")
    return shlex.join([*given, *words, "-o", folder])


def in_python(way: Sequence[Action], options: AutoOptions) -> tuple[str, ...]:
    """The same as calls of a session, for a model that was not opened on the command line."""
    if not way or way[0].verb != "calibrate":
        return ()
    lines = _recipe_in_python(way[0].name, options)
    for action in _joined(way[1:]):
        if action.verb == "tune":
            given = "".join(f", {k}={v!r}" for k, v in action.options)
            ops = f", ops={list(action.names)!r}" if action.names else ""
            lines.append(f"recipe = session.tune({action.name!r}, recipe{ops}{given}).recipe")
        elif action.verb == "search":
            how = f"max_drop={options.max_drop:g}, method={action.name!r}"
            if ranked := dict(action.options).get("mode"):
                how += f", sensitivity=session.sensitivity(recipe, mode={ranked!r})"
            lines.append(f"recipe = session.search(recipe, {how}).recipe")
        else:
            names = ", ".join(repr(name) for name in action.names)
            lines.append(f"recipe = recipe.skip({names})")
    return (*lines, 'session.export(recipe, "int8")')


def _recipe_in_python(calibrator: str, options: AutoOptions) -> list[str]:
    more = ""
    if options.weight_bits != 8:
        more += f", weight_bits={options.weight_bits}"
    if options.activation_bits != 8:
        more += f", activation_bits={options.activation_bits}"
    if not options.per_channel:
        more += ", per_channel=False"
    skip = ", ".join(repr(name) for name in options.skip)
    if not _keeps_ends(options):
        skipped = f".skip({skip})" if skip else ""
        return [f"recipe = session.recipe({calibrator!r}{more}){skipped}"]
    more += ", ends_at_8=True" + (f", skip=[{skip}]" if skip else "")
    return [
        "from qviz.auto_ends import recipe_for",
        f"recipe = recipe_for(session, {calibrator!r}{more})",
    ]


def _keeps_ends(options: AutoOptions) -> bool:
    return options.ends_at_8 and (options.weight_bits, options.activation_bits) != (8, 8)
