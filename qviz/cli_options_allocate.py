"""What can be written after ``qviz allocate``."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from qviz.errors import InputError

Verb = Callable[[str, str], argparse.ArgumentParser]


def share(text: str) -> float:
    """A share above 0: ``0.15`` or ``15%``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share such as 0.15 or 15%")
    return value


def size_limit(text: str) -> tuple[str, float]:
    """Kind and value of a limit on the size: ``0.15`` and ``15%`` are shares, ``120kB`` is bytes.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    from qviz.cli_options import size

    if re.fullmatch(r"[\d.]+%?", text):
        return "size", share(text)
    return "bytes", float(size(text))


def loss(text: str) -> float:
    """A number of at least 0.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def widths(text: str) -> tuple[int, ...]:
    """Bit widths from 2 to 8, ``8,4``; 8 is always among them.

    Raises:
        argparse.ArgumentTypeError: one is none.
    """
    found = []
    for part in text.split(","):
        if part.strip() not in {str(b) for b in range(2, 9)}:
            raise argparse.ArgumentTypeError(f"{part!r} is not a number of bits from 2 to 8")
        found.append(int(part))
    return tuple(sorted({8, *found}, reverse=True))


def times(text: str) -> tuple[str, Path]:
    """Width and folder of ``W4A4=DIR``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    width, equals, folder = text.partition("=")
    if not equals or not folder or re.fullmatch(r"[Ww]\d+[Aa]\d+", width) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width and a folder, W4A4=DIR")
    return width, Path(folder)


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that go against each other or lack another: none is passed over in silence.

    Raises:
        InputError: it names them.
    """
    if options.allocation is not None:
        for option in ("bops", "latency", "max_loss", "max_drop", "cost", "keep", "greedy"):
            if getattr(options, option) not in (None, [], False):
                raise InputError(
                    f"--allocation and --{option.replace('_', '-')}",
                    "an allocation of a file is taken as it is",
                    "Leave one of them out",
                )
        if options.size is not None and options.size[0] == "bytes":
            raise InputError(
                "--allocation and --size", "its rows have shares, not bytes", "Name one as 0.15"
            )
    for limit in ("size", "bops", "latency"):
        if options.cost is not None and getattr(options, limit) is not None:
            raise InputError(
                f"--cost and --{limit}",
                "a cost is made least under --max-loss or --max-drop alone",
                "Leave one of them out",
            )
    if (options.latency is not None or options.cost == "latency") and not options.times:
        raise InputError(
            "--latency" if options.cost is None else "--cost latency",
            "takes the times of each width",
            "Add --times W8A8=DIR ...",
        )


def add_allocate(verb: Verb, session: Callable[..., None], recipe: Callable[..., None]) -> None:
    """The parser of ``qviz allocate``: arguments as ``cli_options_tune.add_tune``."""
    from qviz.cli_options import fraction, positive
    from qviz.cli_options_tune import method_option, opened, seconds

    made = verb("allocate", "bits per op below 8: the least loss within a size, or the like")
    opened(made, session)
    recipe(made)
    limit = made.add_mutually_exclusive_group()
    limit.add_argument(
        "--size", type=size_limit, metavar="X",
        help="of the weights, share of float32: 0.15; or of all parameters: 120kB",
    )  # fmt: skip
    limit.add_argument("--bops", type=share, metavar="X", help="bit operations, share of 8 bits'")
    limit.add_argument(
        "--latency", type=seconds, metavar="T", help="seconds per batch, 0.002; takes --times"
    )
    limit.add_argument(
        "--max-loss", type=loss, metavar="X", help="what layers may add to the loss, predicted"
    )
    limit.add_argument(
        "--max-drop", type=fraction, metavar="X",
        help="cheapest allocation measured within it; without any limit 0.01",
    )  # fmt: skip
    made.add_argument(
        "--cost", choices=("size", "bops", "latency"), help="made least under --max-*; swept (size)"
    )
    made.add_argument("--bits", type=widths, default=(8, 4), metavar="B,...", help="offered (8,4)")
    made.add_argument(
        "--activations", choices=("8", "same", "both"),
        help="of an op below 8 bits (with --size 8, else the same as its weight)",
    )  # fmt: skip
    made.add_argument(
        "--low-calibrator", default="auto", metavar="C",
        help="of activations below 8 bits; auto tries several on calibration data",
    )  # fmt: skip
    made.add_argument(
        "--pipeline", choices=("plain", "light", "advanced"), default="plain",
        help="what comes before and after: light tunes statistics, advanced AdaQuant as well",
    )  # fmt: skip
    made.add_argument(
        "--option", type=method_option, action="append", default=[], metavar="METHOD.NAME=VALUE",
        help="of a method of the pipeline; repeatable",
    )  # fmt: skip
    made.add_argument(
        "--keep", action="append", default=[], metavar="NAME", help="op kept at 8 bits; repeatable"
    )
    made.add_argument(
        "--losses", action="append", default=[], metavar="CSV", type=Path,
        help="per layer, of CalibTIP or an earlier run, instead of measuring; one file per width",
    )  # fmt: skip
    made.add_argument(
        "--allocation", metavar="FILE", type=Path,
        help="no choice, but CalibTIP's: configs_MODEL.txt, its row by --size",
    )  # fmt: skip
    made.add_argument(
        "--by", choices=("loss", "metric"), default="loss",
        help="what is made least; metric takes labelled calibration data (loss)",
    )  # fmt: skip
    made.add_argument(
        "--samples", type=positive, metavar="N", help="calibration samples for the losses (all)"
    )
    made.add_argument(
        "--points",
        type=positive,
        default=12,
        metavar="N",
        help="limits swept for the frontier (12)",
    )
    made.add_argument(
        "--times", type=times, action="append", default=[], metavar="WIDTH=DIR",
        help="folder that qviz bench timed, with everything at that width; repeatable",
    )  # fmt: skip
    made.add_argument("--greedy", action="store_true", help="measure greedy allocations as well")
    made.add_argument("--name", metavar="NAME", help="keep the variant under it (allocated)")
