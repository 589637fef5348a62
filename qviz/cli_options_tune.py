"""What can be written after ``qviz tune``, ``qviz remedies`` and ``qviz auto``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

Verb = Callable[[str, str], argparse.ArgumentParser]
_UNITS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10min`` or ``1.5h``.

    Raises:
        argparse.ArgumentTypeError: it is no duration above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|)", text.strip().lower())
    found = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
    if found <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 10min or 1.5h")
    return found


def pair(text: str) -> tuple[str, str]:
    """Name and value of ``name=value``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    return name.strip(), value.strip()


def method_option(text: str) -> tuple[str, str, str]:
    """Method, name and value of ``method.name=value``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    name, value = pair(text)
    method, dot, option = name.partition(".")
    if not (method and dot and option):
        raise argparse.ArgumentTypeError(f"{text!r} is not method.name=value")
    return method, option, value


def opened(made: argparse.ArgumentParser, session: Callable[..., None]) -> None:
    """Options of a verb that opens a model or a run; what is not said is None, for a run knows."""
    session(made, run=True)
    made.set_defaults(profile=None, seed=None)


def add_tune(verb: Verb, session: Callable[..., None], recipe: Callable[..., None]) -> None:
    """The parser of ``qviz tune``.

    Args:
        verb: makes a parser.
        session: adds the options of a verb that opens a model; ``run=True`` takes a run as well.
        recipe: adds those that make a recipe.
    """
    made = verb("tune", "win accuracy back with one method, measured before and after")
    opened(made, session)
    recipe(made)
    made.add_argument("--list", action="store_true", help="list the methods with their options")
    made.add_argument("--method", metavar="NAME", help="one that --list shows")
    made.add_argument("--ops", metavar="A,B", help="change only these ops or tensors")
    made.add_argument(
        "--option", type=pair, action="append", default=[], metavar="NAME=VALUE",
        help="of the method; repeatable",
    )  # fmt: skip
    made.add_argument(
        "--from", dest="start", metavar="FILE", help="recipe to start from (a run's own)"
    )
    made.add_argument("--train", metavar="D", help="samples to train on, where a method trains")
    made.add_argument("--name", metavar="NAME", help="keep the variant under it (the method's)")


def add_remedies(verb: Verb, session: Callable[..., None], recipe: Callable[..., None]) -> None:
    """The parser of ``qviz remedies``: arguments of ``add_tune``."""
    from qviz.cli_options import positive

    made = verb("remedies", "try every method of seconds on the worst ops alone, measured")
    opened(made, session)
    recipe(made)
    made.add_argument("--worst", type=positive, default=3, metavar="N", help="ops to treat (3)")
    made.add_argument("--ops", metavar="A,B", help="these ops instead of the worst")
    made.add_argument(
        "--method", action="append", default=[], metavar="NAME",
        help="only this one of qviz tune --list; repeatable",
    )  # fmt: skip
    made.add_argument(
        "--from", dest="start", metavar="FILE", help="recipe to start from (a run's own)"
    )
    made.add_argument("--name", metavar="NAME", help="keep the best of all sites under it")


def add_auto(verb: Verb, session: Callable[..., None], recipe: Callable[..., None]) -> None:
    """The parser of ``qviz auto``: arguments of ``add_tune``."""
    from qviz.cli_options import fraction

    made = verb("auto", "try what wins accuracy back, cheapest first, until the target is met")
    opened(made, session)
    recipe(made)
    made.add_argument("--train", metavar="D", help="samples to train on; without, nothing trains")
    made.add_argument("--confirm", metavar="D", help="measure the result once on these as well")
    made.add_argument(
        "--max-drop", type=fraction, default=0.01, metavar="X", help="relative, 0.01 or 1%% (0.01)"
    )
    made.add_argument(
        "--time-budget", type=seconds, metavar="T", help="90s, 10min, 1.5h (no limit)"
    )
    made.add_argument("--strategy", choices=("guided", "amct"), default="guided")
    made.add_argument(
        "--without", action="append", default=[], metavar="METHOD", help="not tried; repeatable"
    )
    made.add_argument(
        "--option", type=method_option, action="append", default=[], metavar="METHOD.NAME=VALUE",
        help="of a method; repeatable",
    )  # fmt: skip
