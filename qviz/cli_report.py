"""The verb that writes a report of a run: one HTML file that can be mailed around."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.cli_beside import free
from qviz.cli_open import open_job, read_recipe
from qviz.cli_progress import Meter
from qviz.cli_remember import opened_again
from qviz.errors import InputError

#: Where a checkpoint of the run is looked for if none is named.
USUAL = ("{run}/export", "{run}-int8")


def report(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Write the report of a run; only what the run does not know yet is measured."""
    from qviz.int8.certificate_file import read_certificate
    from qviz.reporting import NAME, gather, proven, write
    from qviz.store import RunFolder

    RunFolder.view(options.run)
    folder = options.run.resolve()
    target = (options.output or folder / NAME).resolve()
    recipe_file = Path(options.recipe).resolve() if options.recipe else folder / "recipe.json"
    named = None if options.checkpoint is None else options.checkpoint.resolve()
    if not recipe_file.exists():
        raise InputError(
            str(recipe_file),
            "there is no such file",
            "Finish the run with qviz run or qviz search, or name a recipe with --recipe",
        )
    with (
        Meter(quiet=options.quiet) as meter,
        free(folder, meter) as home,
        opened_again(home, options) as again,
    ):
        job = open_job(again, command, meter, folder=home, evaluates=False)
        recipe = read_recipe(recipe_file, job.session)
        usual = [Path(path.format(run=folder)) for path in USUAL]
        checkpoint = next((p for p in usual if proven(p, recipe).certificate is not None), None)
        if named is not None:
            checkpoint, known = named, proven(named, recipe)
            if known.problem:
                read_certificate(named)  # raises what is wrong with it
            if known.certificate is None:
                raise InputError(
                    str(named),
                    "it holds no verified checkpoint of this recipe",
                    "Name a folder that qviz export wrote from it",
                )
        content = gather(
            job.session, recipe, checkpoint=checkpoint, home=folder, progress=meter.tell
        )
        write(content, target)
        meter.warn(job.session.warnings)
        meter.flush()
    size = target.stat().st_size
    if options.json:
        print(as_json.text({"report": str(target), "bytes": size}))
    else:
        print(f"report written to {target} ({show.count(size)}B); it opens in any browser, offline")
    return 0
