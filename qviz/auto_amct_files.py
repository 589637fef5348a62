"""The three files of AMCT's automatic quantization, under its names.

    accuracy_based_auto_calibration_ranking_information.json    [[layer, similarity], ...]
    accuracy_based_auto_calibration_record.json                 every configuration measured
    accuracy_based_auto_calibration_final_config.json           AMCT's quantization config

The ranking begins with the least similar layer.

The last one is not written when all layers were rolled back. In the record, AMCT writes one object
after the other; here they are a list, so that the file is JSON. The config names the layers that
AMCT knows, convolutions and linear layers; int8 adds and matrix products are in the other two.

Source: AMCT, ``accuracy_based_auto_calibration_base.py`` and its quantization config.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qviz.auto import AutoStep
from qviz.export.amct import quant_config
from qviz.profiles import profile
from qviz.recipe import resolve
from qviz.session import Session

STEM = "accuracy_based_auto_calibration"
RANKING, RECORD, FINAL = (
    f"{STEM}_ranking_information.json",
    f"{STEM}_record.json",
    f"{STEM}_final_config.json",
)


@dataclass(frozen=True)
class Record:
    """One configuration that was measured.

    Attributes:
        ranking: all layers, the least similar first.
        count: how many of them were rolled back.
        accepted: by the evaluator.
        loss: as the evaluator says.
    """

    ranking: tuple[str, ...]
    count: int
    accepted: bool
    loss: float


def write_files(
    session: Session,
    ranking: Mapping[str, float],
    records: Sequence[Record],
    best: AutoStep | None,
) -> tuple[str, ...]:
    """Write what there is into the run folder; their names."""
    run = session.run
    if run is None or not ranking:
        return ()
    texts = {RANKING: _text([[name, value] for name, value in ranking.items()])}
    texts[RECORD] = _text([_record(r) for r in records])
    if best is not None and best.recipe is not None:
        decisions = resolve(best.recipe, session.graph)
        int8 = {
            op.name
            for op in session.graph.quantizable
            if all(decisions[o.name].int8 for o in op.operands)
        }
        texts[FINAL] = _text(
            quant_config(
                session.graph,
                int8,
                per_channel=best.recipe.per_channel,
                asymmetric=not profile(best.recipe.profile).symmetric,
            )
        )
    else:
        (run.path / FINAL).unlink(missing_ok=True)  # of an earlier run with another target
    for name, text in texts.items():
        run.write_text(name, text)
    return tuple(texts)


def _record(record: Record) -> dict[str, object]:
    return {
        "roll_back_config": {n: i >= record.count for i, n in enumerate(record.ranking)},
        "metric_eval": [record.accepted, record.loss],
    }


def _text(value: object) -> str:
    return json.dumps(value, indent=4, separators=(",", ":"), ensure_ascii=False) + "\n"
