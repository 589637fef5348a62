"""One number per op, and that number as custom node data for Model Explorer.

Model Explorer (google-ai-edge/model-explorer) draws a model that ``torch.export.save`` wrote and
colours its nodes by a JSON file of this form (its ``GraphNodeData``; "Add per-node data" in its
menu, or ``--node_data_paths``)::

    {"name": "Multiply-accumulates per sample",
     "results": {"conv2d_3": {"value": 451584}, ...},
     "gradient": [{"stop": 0, "bgColor": "#fee6ce"}, {"stop": 1, "bgColor": "#a63603"}]}

Keys of ``results`` are node ids; its adapter for exported programs uses the names of the fx nodes,
which are those of the captured graph. What capture takes apart (scaled dot-product attention) or
folds away (batch norm) has no node of the same name there and is left uncoloured. A file without
the graph's id is applied to whichever graph is shown. Colours run evenly from the smallest value
to the largest; a word (a status) is coloured by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from qviz.coverage import CoverageRow
from qviz.graph import Graph
from qviz.sensitivity import Sensitivity

#: Light to dark, so that it also reads in grey.
GRADIENT = ("#FFF7BC", "#FEC44F", "#D95F0E", "#662506")
#: Okabe and Ito's blue and orange, and grey; the order of the legend.
STATUS_COLOURS = {"int8": "#0072B2", "float by choice": "#E69F00", "float": "#8A8A8A"}


@dataclass(frozen=True)
class OpNumber:
    """A number, or a word, that some ops have.

    Attributes:
        key: short name, for files.
        title: what it is, for a person.
        unit: "" if it has none.
        values: by op name; ops that are not in it have none.
        log: spread over so many sizes that only its logarithm shows them.
        low_is_bad: the low values are those to look at.
    """

    key: str
    title: str
    unit: str
    values: Mapping[str, float | str]
    log: bool = False
    low_is_bad: bool = False


def op_numbers(
    rows: tuple[CoverageRow, ...],
    sqnr_db: Mapping[str, float],
    sensitivity: Sensitivity | None = None,
) -> tuple[OpNumber, ...]:
    """Everything an op can be coloured by.

    Args:
        rows: the coverage of the draft.
        sqnr_db: of the worst range that an op reads, by op.
        sensitivity: measured or estimated so far; rows of operands count for their op's worst.
    """
    found = [
        OpNumber("status", "Runs as", "", {row.op: row.status for row in rows}),
        OpNumber(
            "macs",
            "Multiply-accumulates per sample",
            "MACs",
            {row.op: row.macs for row in rows if row.macs},
            log=True,
        ),
        OpNumber(
            "parameters",
            "Parameters",
            "",
            {row.op: row.parameters for row in rows if row.parameters},
            log=True,
        ),
        OpNumber(
            "sqnr",
            "SQNR of the worst input under its range (expected)",
            "dB",
            {op: value for op, value in sqnr_db.items() if math.isfinite(value)},
            low_is_bad=True,
        ),
    ]
    if sensitivity is not None:
        found.append(_divergence(sensitivity))
    return tuple(found)


def _divergence(sensitivity: Sensitivity) -> OpNumber:
    worst: dict[str, float | str] = {}
    for row in reversed(sensitivity.rows):  # worst first in it, so the worst is written last
        if row.divergence > 0:
            worst[row.name.rpartition("/")[0] or row.name] = row.divergence
    exact = all(row.exact for row in sensitivity.rows)
    said = "measured" if exact else "partly estimated"
    title = f"Sensitivity: {sensitivity.divergence_name} from float ({said})"
    return OpNumber("sensitivity", title, "", worst, log=True)


def model_explorer(number: OpNumber, graph: Graph) -> str:
    """The JSON text of one number, see above."""
    results: dict[str, dict[str, object]] = {}
    for name, value in number.values.items():
        entry: dict[str, object] = {"value": value}
        if isinstance(value, str):
            entry["bgColor"] = STATUS_COLOURS.get(value, "#FFFFFF")
        results[graph.ops[name].node] = entry
    made: dict[str, object] = {"name": _named(number), "results": results}
    if any(not isinstance(value, str) for value in number.values.values()):
        colours = GRADIENT[::-1] if number.low_is_bad else GRADIENT
        last = len(colours) - 1
        made["gradient"] = [{"stop": i / last, "bgColor": c} for i, c in enumerate(colours)]
    return json.dumps(made, indent=1, allow_nan=False) + "\n"


def _named(number: OpNumber) -> str:
    return f"{number.title} ({number.unit})" if number.unit else number.title
