"""The verb that says which precision each op got in a TensorRT engine."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from qviz import cli_json as as_json
from qviz import cli_print as show
from qviz.errors import FormatError
from qviz.export.tensorrt_precision import EnginePrecision


def precision(options: argparse.Namespace) -> int:
    """Print it; exit code 1 if an int8 op runs in float."""
    from qviz.export.onnx_folder import MODEL
    from qviz.export.tensorrt_build import LAYERS
    from qviz.export.tensorrt_precision import read_precision, wanted_of_file

    if not (options.folder / MODEL).is_file():
        raise FormatError(
            str(options.folder),
            f"there is no {MODEL} in it",
            "Name the folder onnx-tensorrt that qviz export wrote",
        )
    layers = options.layers or options.folder / LAYERS
    found = read_precision(layers, wanted_of_file(options.folder / MODEL))
    print(as_json.text(_plain(found)) if options.json else _lines(found), flush=True)
    return 1 if found.fell_back else 0


def _plain(found: EnginePrecision) -> dict[str, object]:
    return {**asdict(found), "fell_back": [op.op for op in found.fell_back]}


def _lines(found: EnginePrecision) -> str:
    rows = [(op.op, op.wanted, op.precision or "not named", op.output) for op in found.ops]
    lines = [show.table(("op<", "file<", "engine<", "output<"), rows)]
    lines += [f"reformat     {r.before} to {r.after}: {r.layer}" for r in found.reformats]
    fell = ", ".join(op.op for op in found.fell_back)
    lines.append(f"int8 in the file, float in the engine: {fell or 'none'}")
    lines.append(f"layers       {found.layers}, of them {len(found.reformats)} reformat only")
    return "\n".join(lines)
