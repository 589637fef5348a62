"""What can be written on the command line: one parser per verb, and what its options mean.

Nothing here imports torch, so that ``qviz --help`` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from qviz import __version__, cli_options_allocate, cli_options_qat, cli_options_tune
from qviz.errors import InputError

EXIT_CODES = """exit codes:
  0    done
  1    the target was not reached, or verification failed; everything is written all the same
  2    input that cannot be used: one line says what, why and what to do
  70   an error in qviz itself: one line says where the traceback is
  130  stopped by Ctrl-C: finished work is kept, the same command goes on
"""
MODEL = (
    "sample:NAME, a .pt2 file, file.py:factory or package.module:factory (Python code is run: name "
    "only what you trust)"
)
DATA = "a folder of images, a .npz, .safetensors or .pt file of arrays, or file.py:factory"
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line like all others."""

    def __init__(self, **options: object) -> None:
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            InputError: always.
        """
        raise InputError(self.prog, " ".join(message.split()), f"See {self.prog} --help")


def size(text: str) -> int:
    """Bytes of ``2GiB``, ``500MB`` or ``1048576``.

    Raises:
        argparse.ArgumentTypeError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 2GiB or 500MB")
    found = int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2]])
    if found < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory at all")
    return found


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def fraction(text: str) -> float:
    """A relative drop: 0.01 or ``1%``.

    Raises:
        argparse.ArgumentTypeError: it is not from 0 to below 1.
    """
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a drop such as 0.01 or 1%")
    return value


def shape(text: str) -> tuple[int, ...]:
    """Sizes of one sample, ``3,224,224``.

    Raises:
        argparse.ArgumentTypeError: it is no shape.
    """
    return tuple(positive(part.strip()) for part in text.split(","))


def batches(text: str) -> tuple[int, ...]:
    """Batch sizes, ``1,8,32``; each once.

    Raises:
        argparse.ArgumentTypeError: one is not a whole number of at least 1.
    """
    return tuple(dict.fromkeys(shape(text)))


def _output(parser: Parser, what: str, *, required: bool = True) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        required=required,
        help=f"{what}; made if needed",
    )


def _machine(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def _pixels(parser: Parser) -> None:
    parser.add_argument(
        "--preprocessing",
        metavar="TOML",
        help="of pixels: mean, std, resize, crop ...",
    )


def _model(parser: Parser, *, run: bool = False) -> None:
    if run:
        parser.add_argument("model", metavar="MODEL | RUN", nargs="?", help=f"{MODEL}; or a run")
    else:
        parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--weights", metavar="FILE", help="put into what a factory built")
    parser.add_argument("--calibration", metavar="D", help=f"samples that ranges come from: {DATA}")
    parser.add_argument("--no-fold-batch-norm", dest="fold", action="store_false", default=None)
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads to use")
    parser.add_argument("--profile", default="cuda", help="whose rules: cuda, tensorrt, ort-cpu")


def _session(parser: Parser, *, run: bool = False) -> None:
    """Options of every verb that runs the model over data; ``run``: of a run folder as well."""
    _model(parser, run=run)
    parser.add_argument("--evaluation", metavar="D", help="samples that measure, likewise")
    parser.add_argument(
        "--metric", metavar="M", help="top1, top5, agreement, kl ... or file.py:function"
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="samples per pass (32)")
    parser.add_argument(
        "--memory-budget", type=size, metavar="SIZE", help="for kept activations (2GiB)"
    )
    _pixels(parser)
    _machine(parser)
    _output(parser, "run folder", required=not run)


def _recipe(parser: Parser) -> None:
    """Options that make a recipe."""
    parser.add_argument(
        "--calibrator", default="auto", metavar="C", help="max, entropy, percentile:99.9 ... (auto)"
    )
    parser.add_argument("--weight-bits", type=int, default=8, metavar="B", help="2 to 8 (8)")
    parser.add_argument("--activation-bits", type=int, default=8, metavar="B", help="2 to 8 (8)")
    parser.add_argument("--per-tensor", action="store_true", help="one scale per weight tensor")
    parser.add_argument(
        "--ends-at-8",
        action=argparse.BooleanOptionalAction,
        help="below 8 bits, first and last layers keep 8 (auto: yes, else no)",
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="NAME", help="op left in float; repeatable"
    )


def _search(parser: Parser) -> None:
    parser.add_argument(
        "--max-drop", type=fraction, default=0.01, metavar="X", help="relative, 0.01 or 1%% (0.01)"
    )
    parser.add_argument("--method", choices=("greedy", "bisect"), default="greedy")


def _ranking(parser: Parser) -> None:
    parser.add_argument("--mode", choices=("only_this", "all_but_this"), default="only_this")
    parser.add_argument("--operands", choices=("both", "weights", "activations"), default="both")
    parser.add_argument("--granularity", choices=("op", "operand"), default="op")
    parser.add_argument("--top", type=positive, default=10, metavar="N", help="rows to print (10)")


def parser() -> Parser:
    """The parser of the whole command line."""
    top = Parser(
        prog="qviz",
        description="Turn a float PyTorch model into an INT8 one and see why it works.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"qviz {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True, parser_class=Parser)

    def verb(name: str, text: str) -> Parser:
        made: Parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:])
        return made

    made = verb("samples", "list the sample models that come with qviz")
    made.add_argument("--json", action="store_true", help="print JSON on standard output")

    made = verb("info", "ops, coverage (int8, or float and why), parameters, MACs")
    _model(made)
    made.add_argument("--shape", type=shape, metavar="S", help="of one sample, 3,224,224")
    _pixels(made)
    _machine(made)

    made = verb("run", "the whole job: calibrate, choose ranges, score ops, search for the target")
    for add in (_session, _recipe, _search):
        add(made)
    _session(verb("calibrate", "histograms and candidate ranges of every tensor"))
    made = verb("evaluate", "accuracy in float and under a recipe, with intervals")
    for add in (_session, _recipe):
        add(made)
    made.add_argument("--recipe", metavar="FILE", help="measure this one")
    made.add_argument("--name", metavar="NAME", help="keep what is measured as a variant")
    made = verb("sensitivity", "what each op or operand costs, worst first")
    for add in (_session, _recipe, _ranking):
        add(made)
    made = verb("search", "the fewest ops to leave in float for a target")
    for add in (_session, _recipe, _search):
        add(made)
    made.add_argument("--from", dest="start", metavar="FILE", help="recipe to start from")
    made.add_argument("--mode", choices=("only_this", "all_but_this"), default="only_this")

    cli_options_tune.add_tune(verb, _session, _recipe)
    cli_options_tune.add_remedies(verb, _session, _recipe)
    cli_options_tune.add_auto(verb, _session, _recipe)
    cli_options_allocate.add_allocate(verb, _session, _recipe)
    cli_options_qat.add_qat(verb, _session, _recipe)

    made = verb("export", "write the int8 checkpoint of a run")
    made.add_argument(
        "run", metavar="RUN", type=Path, help="run folder, or sample:NAME to make its run first"
    )
    made.add_argument("--recipe", metavar="FILE", help="another one than the run's")
    made.add_argument(
        "--formats", default="checkpoint", metavar="F,...", help="names, or all: see the README"
    )
    made.add_argument(
        "--nearest",
        action="store_true",
        help="where a format cannot express the recipe, write the nearest one that it can",
    )
    made.add_argument("--threads", type=positive, metavar="N", help="CPU threads to use")
    _machine(made)
    _output(made, "folder of the checkpoint")

    made = verb("verify", "run an exported checkpoint against the simulation")
    made.add_argument("folder", metavar="DIR", type=Path, help="what qviz export wrote")
    made.add_argument("--evaluation", metavar="D", help=f"samples to run: {DATA}")
    made.add_argument(
        "--device", choices=("cpu", "cuda"), help="leave a GPU out, or insist on it (what is there)"
    )
    made.add_argument(
        "--onnx", action="store_true", help="insist on the ONNX files beside it (where there are)"
    )
    made.add_argument(
        "--fallback", action="store_true", help="go on without what was insisted on and cannot run"
    )
    made.add_argument("--threads", type=positive, metavar="N", help="CPU threads to use")
    _pixels(made)
    _machine(made)

    made = verb("sizes", "bytes of a checkpoint's weights: float, int8, packed, entropy-coded")
    made.add_argument("folder", metavar="DIR", type=Path, help="what qviz export wrote")
    made.add_argument("--top", type=positive, default=20, metavar="N", help="rows to print (20)")
    _machine(made)

    made = verb("bench", "time int8 against float, per op; or estimate it for a GPU")
    made.add_argument(
        "folder", metavar="DIR | RUN", type=Path, help="what qviz export wrote; or a run folder"
    )
    made.add_argument(
        "--batch", type=batches, default=(1,), metavar="N,...", help="samples per run (1)"
    )
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (cpu)")
    made.add_argument(
        "--float",
        choices=("fp32", "fp16", "bf16"),
        help="type of the float side (fp32, on cuda fp16)",
    )
    made.add_argument("--compile", action="store_true", help="time torch.compile as well")
    made.add_argument("--gpu", metavar="NAME", help="add an estimate from its datasheet: A100-80GB")
    made.add_argument("--top", type=positive, default=20, metavar="N", help="rows to print (20)")
    made.add_argument("--threads", type=positive, metavar="N", help="CPU threads to use")
    _machine(made)

    made = verb("import", "read another tool's ranges and skips into a recipe, and measure it")
    made.add_argument("run", metavar="RUN", type=Path, help="run folder")
    made.add_argument(
        "file", metavar="FILE", type=Path, help="AIMET encodings, AMCT record, TensorRT cache ..."
    )
    made.add_argument("--format", metavar="F", help="what it is; else its content is looked at")
    made.add_argument("--threads", type=positive, metavar="N", help="CPU threads to use")
    _machine(made)
    made.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="recipe to write (RUN/imported.json)"
    )

    made = verb("precision", "which precision each op got in a TensorRT engine")
    made.add_argument("folder", metavar="DIR", type=Path, help="onnx-tensorrt of an export")
    made.add_argument(
        "layers", metavar="LAYERS", type=Path, nargs="?",
        help="what the engine inspector says; JSON (DIR/engine.layers.json)",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="print JSON on standard output")

    made = verb("report", "write one self-contained HTML file about a run")
    made.add_argument("run", metavar="RUN", type=Path, help="run folder")
    made.add_argument("--recipe", metavar="FILE", help="another one than the run's")
    made.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=Path,
        help="what qviz export wrote (RUN/export, RUN-int8)",
    )
    made.add_argument("--threads", type=positive, metavar="N", help="CPU threads to use")
    _machine(made)
    made.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="file to write (RUN/report.html)"
    )

    made = verb("app", "open the app in the browser")
    made.add_argument("model", metavar="MODEL | RUN", nargs="?", help=f"{MODEL}; or a run folder")
    made.add_argument("--calibration", metavar="D", help=f"samples that ranges come from: {DATA}")
    made.add_argument("--evaluation", metavar="D", help="samples that measure, likewise")
    made.add_argument("--train", metavar="D", help="samples to train on (page Win back), likewise")
    made.add_argument("--weights", metavar="FILE", help="put into what a factory built")
    made.add_argument("--preprocessing", metavar="TOML", help="what is done to the pixels")
    made.add_argument("--profile", default="cuda", help="engine whose rules are followed")
    made.add_argument("--metric", metavar="M", help="what is measured")
    made.add_argument(
        "--allow-code",
        action="store_true",
        help="let the browser name a Python factory; importing it runs its code",
    )
    made.add_argument("--port", type=positive, metavar="N", help="exactly this one")
    made.add_argument("--headless", action="store_true", help="do not open a browser")
    return top


VERBS = (
    "samples",
    "info",
    "run",
    "calibrate",
    "evaluate",
    "sensitivity",
    "search",
    "tune",
    "remedies",
    "auto",
    "allocate",
    "qat",
    "export",
    "verify",
    "sizes",
    "bench",
    "import",
    "precision",
    "report",
    "app",
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line.

    Raises:
        InputError: it has an unknown verb or option, or a value that cannot be used.
    """
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and argv[0] == verb and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1, 0.5)
        cure = f"Did you mean qviz {near[0]}" if near else f"Choose one of {', '.join(VERBS)}"
        raise InputError(f"qviz {verb}", "there is no such command", cure)
    return parser().parse_args(argv)
