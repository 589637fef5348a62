"""``qviz``: the verbs as commands, and what becomes of everything that can go wrong.

    qviz samples | info MODEL                           look
    qviz run MODEL --calibration D --evaluation D -o DIR       the whole job
    qviz calibrate | evaluate | sensitivity | search MODEL ... -o DIR    its steps
    qviz tune MODEL --method NAME ... -o DIR            win accuracy back with one method
    qviz remedies MODEL ... -o DIR                      what helps the worst ops
    qviz auto MODEL ... -o DIR                          or with all, cheapest first
    qviz allocate MODEL --size 0.15 ... -o DIR          bits per op below 8
    qviz qat MODEL --train D ... -o DIR                 train with the rounding
    qviz export RUN -o DIR; qviz verify DIR             the int8 checkpoint
    qviz sizes DIR                                      what its weights take, in every form
    qviz import RUN FILE                                another tool's ranges and skips
    qviz precision DIR                                  of each op in a TensorRT engine
    qviz bench DIR | RUN                                time int8 against float, per op
    qviz report RUN [-o FILE]                           one HTML file about it
    qviz app                                            the same in the browser

Results go to standard output, everything else to standard error. Whatever the user can do something
about is one line and exit code 2, never a traceback; the exit codes are in ``cli_options.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from qviz import cli_options
from qviz.errors import Cancelled, QvizError

#: What the disk says when the user can do something about it.
DISK = {
    errno.ENOSPC: "Free some space or name another folder; what was finished is kept",
    errno.EDQUOT: "Free some space or name another folder; what was finished is kept",
    errno.EACCES: "Name a folder you may write to",
    errno.EPERM: "Name a folder you may write to",
    errno.EROFS: "Name a folder that can be written to",
}
UNEXPECTED = 70
INTERRUPTED = 130
PIPE_CLOSED = 128 + 13  # as if the signal had ended it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after ``qviz``; None takes them from the command line.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    options = argparse.Namespace()
    try:
        options = cli_options.parse(words or ["--help"])
        with warnings.catch_warnings():
            _quieten()
            return _dispatch(options, ["qviz", *words])
    except SystemExit as end:  # argparse after --help and --version
        return end.code if isinstance(end.code, int) else 1
    except Cancelled:
        return _interrupted(options)
    except KeyboardInterrupt:
        return _interrupted(options)
    except BrokenPipeError:
        return _closed()
    except QvizError as error:
        return _say(str(error), error.exit_code)
    except MemoryError:
        return _no_memory()
    except OSError as error:
        if error.errno in DISK:
            why = (error.strerror or str(error)).lower()
            return _say(f"{error.filename or 'disk'}: {why}. {DISK[error.errno]}.", 2)
        return _unexpected(error, options)
    except Exception as error:
        if "can't allocate memory" in str(error) or "out of memory" in str(error).lower():
            return _no_memory()
        return _unexpected(error, options)


def _dispatch(options: argparse.Namespace, command: Sequence[str]) -> int:
    from qviz import cli_more as more

    if options.verb in ("run", "calibrate", "evaluate", "sensitivity", "search"):
        from qviz import cli_verbs

        return cli_verbs.work(getattr(cli_verbs, options.verb), options, command)
    if options.verb == "export":
        from qviz.cli_checkpoint import export

        return export(options, command)
    if options.verb == "tune":
        from qviz.cli_tune import tune

        return tune(options, command)
    if options.verb == "remedies":
        from qviz.cli_remedies import remedies

        return remedies(options, command)
    if options.verb == "auto":
        from qviz.cli_auto import auto

        return auto(options, command)
    if options.verb == "qat":
        from qviz.cli_qat import qat

        return qat(options, command)
    if options.verb == "allocate":
        from qviz.cli_allocate import allocate

        return allocate(options, command)
    if options.verb == "verify":
        from qviz.cli_verify import verify

        return verify(options)
    if options.verb == "sizes":
        from qviz.cli_sizes import sizes

        return sizes(options)
    if options.verb == "bench":
        from qviz.cli_bench import bench

        return bench(options, command)
    if options.verb == "import":
        from qviz.cli_import import import_file

        return import_file(options, command)
    if options.verb == "precision":
        from qviz.cli_precision import precision

        return precision(options)
    if options.verb == "report":
        from qviz.cli_report import report

        return report(options, command)
    alone = {"samples": more.samples, "info": more.info, "app": more.app}
    code = alone[options.verb](options)
    sys.stdout.flush()
    return code


def _quieten() -> None:
    """Libraries warn about their own future; that is nothing the user of a command can act on."""
    for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    warnings.filterwarnings("ignore", module=r"torch\.")


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"qviz: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return code


def _no_memory() -> int:
    return _say(
        "memory: there is not enough of it. Give a smaller --batch-size or --memory-budget; what "
        "was finished is kept.",
        2,
    )


def _interrupted(options: argparse.Namespace) -> int:
    """Say what is kept, and how to go on."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut this short
    folder = getattr(options, "output", None)
    kept = _kept(folder) if isinstance(folder, Path) else []
    if not kept:
        return _say("stopped by Ctrl-C: nothing was finished. Run it again.", INTERRUPTED)
    return _say(
        f"stopped by Ctrl-C: {', '.join(kept)} kept in {folder}. Run the same command again to go "
        "on.",
        INTERRUPTED,
    )


def _kept(folder: Path) -> list[str]:
    found = []
    if (folder / "histograms.npz").exists():
        found.append("the histograms")
    tables = {"evaluations": "evaluations", "sensitivity": "sensitivity rows", "auto": "steps"}
    for table, what in tables.items():
        with contextlib.suppress(OSError):
            count = (folder / f"{table}.jsonl").read_bytes().count(b"\n")
            found.append(f"{count} {what}")
    return found


def _closed() -> int:
    """Whoever read the output has gone, as ``| head`` does."""
    with contextlib.suppress(OSError, ValueError):
        # The interpreter flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _unexpected(error: Exception, options: argparse.Namespace) -> int:
    where = _written(traceback.format_exc(), getattr(options, "output", None))
    message = " ".join(str(error).split())[:200]
    return _say(
        f"unexpected error: {type(error).__name__}: {message}. The traceback is in {where}; what "
        "was finished is kept.",
        UNEXPECTED,
    )


def _written(text: str, folder: object) -> str:
    if isinstance(folder, Path) and folder.is_dir():
        with contextlib.suppress(OSError):
            path = folder / "error.txt"
            path.write_text(text, encoding="utf-8")
            return str(path)
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="qviz-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return name
    return "no file, none could be written"


if __name__ == "__main__":
    sys.exit(main())
