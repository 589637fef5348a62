"""The verbs that measure nothing: samples, info, app."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.cli_open import check_recipe, prepare
from qviz.errors import DataError

if TYPE_CHECKING:
    from qviz.graph import Graph


def samples(options: argparse.Namespace) -> int:
    """What ships."""
    from qviz import samples as shipping

    found = shipping.samples()
    if options.json:
        print(as_json.text(found))
        return 0
    rows = [(f"sample:{s.name}", s.metric, show.percent(s.float_accuracy), s.title) for s in found]
    print(show.table(("model<", "metric<", "float", "<"), rows, indent=""))
    print(f"\ntry: qviz run sample:{found[0].name} -o out" if found else "There are none.")
    return 0


def info(options: argparse.Namespace) -> int:
    """Ops, coverage, parameters, MACs."""
    from qviz.coverage import coverage

    prepare(options)
    check_recipe(options)
    graph = _captured(options)
    rows = coverage(graph)
    if options.json:
        print(
            as_json.text(
                {
                    "model": options.model,
                    "ops": len(graph.ops),
                    "quantizable": len(graph.quantizable),
                    "macs": graph.macs,
                    "parameters": sum(row.parameters for row in rows),
                    "folded": graph.folded,
                    "coverage": rows,
                }
            )
        )
        return 0
    print(f"{options.model}: {show.graph_lines(graph, rows)}")
    if graph.folded:
        print(f"{len(graph.folded)} batch norms folded into the op before them")
    print(f"\n{show.coverage_table(rows)}")
    return 0


def _captured(options: argparse.Namespace) -> Graph:
    import torch
    from torch.export import ExportedProgram

    from qviz.capture import capture
    from qviz.data import Batch
    from qviz.loading import load_data, load_model

    loaded = load_model(options.model, options.weights)
    fold = options.fold is not False
    sample = str(options.model).startswith("sample:")
    if options.calibration or sample:
        data = load_data(options.calibration or options.model, "calibration", options.preprocessing)
        batch = next(iter(data.head(2).batches(2)))
    elif options.shape:
        batch = Batch((torch.zeros(2, *options.shape),), {}, None, 2)
    elif isinstance(loaded.model, ExportedProgram):
        batch = Batch((), {}, None, 2)  # a program knows the shapes of its inputs
    else:
        raise DataError(
            options.model,
            "the shape of its input is not known",
            "Give --shape 3,224,224 for one sample, or --calibration",
        )
    return capture(loaded.model, batch, fold_batch_norm=fold)


def app(options: argparse.Namespace) -> int:
    """Open the app."""
    from qviz.ui.launch import Start, launch

    start = Start(
        model=options.model,
        calibration=options.calibration,
        evaluation=options.evaluation,
        weights=options.weights,
        preprocessing=options.preprocessing,
        profile=options.profile,
        metric=options.metric,
        train=options.train,
    )
    if options.model is not None and (Path(options.model) / "manifest.json").exists():
        from qviz.ui.models import start_of_run

        again = start_of_run(Path(options.model))
        data = ("calibration", "evaluation", "train")
        said = {name: v for name in data if (v := getattr(start, name)) is not None}
        start = replace(again, **said)
    launch(start, port=options.port, headless=options.headless, allow_code=options.allow_code)
    return 0
