"""What can be written after ``qviz qat``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Verb = Callable[[str, str], argparse.ArgumentParser]


def number(text: str) -> float:
    """A number of at least 0; ``TuneError`` later says what the option takes.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def add_qat(verb: Verb, session: Callable[..., None], recipe: Callable[..., None]) -> None:
    """The parser of ``qviz qat``: arguments as ``cli_options_tune.add_tune``."""
    from qviz.cli_options import positive
    from qviz.cli_options_tune import opened, seconds

    made = verb("qat", "train the weights with the rounding in the forward pass; goes on if killed")
    opened(made, session)
    recipe(made)
    data = made.add_mutually_exclusive_group()
    data.add_argument("--train", metavar="D", help="samples to train on; a part is held out")
    data.add_argument(
        "--loader", metavar="FILE.py:FACTORY",
        help="batches of your own instead, shuffled and augmented by you; once per epoch",
    )  # fmt: skip
    made.add_argument(
        "--schedule-epochs", type=number, metavar="N",
        help="epochs the float model was trained for; a tenth is trained (100)",
    )  # fmt: skip
    made.add_argument(
        "--initial-lr", type=number, metavar="X",
        help="learning rate that began with; 1 %% of it begins here (0.1)",
    )  # fmt: skip
    made.add_argument("--fraction", type=number, metavar="X", help="of the schedule (0.1)")
    made.add_argument("--lr", type=number, metavar="X", help="to begin with, whatever it was")
    made.add_argument(
        "--ranges", choices=("fixed", "pact", "lsq"),
        help="as calibrated, or learned: of no use at 8 bits after a good calibration (fixed)",
    )  # fmt: skip
    made.add_argument(
        "--distill", type=number, metavar="A",
        help="0 learns from the labels, 1 from the float model and needs none (0)",
    )  # fmt: skip
    made.add_argument(
        "--optimizer", metavar="O", help="sgd, adam, adamw, or file.py:function of the model (sgd)"
    )
    made.add_argument(
        "--loss", metavar="FILE.py:FUNCTION", help="of (outputs, targets); else cross entropy"
    )
    made.add_argument("--momentum", type=number, metavar="X", help="of sgd (0.9)")
    made.add_argument("--weight-decay", type=number, metavar="X", help="as it was (0.0001)")
    made.add_argument("--train-batch", type=positive, metavar="N", help="samples per step (128)")
    made.add_argument(
        "--held-out", type=number, metavar="X", help="part that chooses the epoch (0.1)"
    )
    made.add_argument(
        "--max-time", type=seconds, metavar="T", help="stop after 90s, 10min, 1.5h of training"
    )
    made.add_argument(
        "--checkpoint-every", type=number, metavar="S", help="seconds that a kill may cost (60)"
    )
    made.add_argument("--device", metavar="D", help="cpu or cuda (cpu)")
    made.add_argument("--ops", metavar="A,B", help="train only the weights of these ops")
    made.add_argument("--from", dest="start", metavar="FILE", help="recipe to start from")
    made.add_argument("--name", metavar="NAME", help="keep the variant under it (qat)")
