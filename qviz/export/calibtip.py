"""CalibTIP's per-layer losses as CSV: the input of its integer programme for bit widths.

One file per width, ``per_layer_accuracy.A4.W4.csv``, as ``calibtip_csv.py`` writes and reads them::

    base precision,replaced precision,replaced layer,accuracy,loss,Parameters Size [Elements],MACs
    8,4,-,93.1,0.21,-,-
    8,4,conv1,92.9,0.22,432,110592

The first row is the model at 8 bits; each other row has one layer's weight and input at the
replaced width. ``mpip_compression_pytorch_multi.py`` takes the files with
``--layer_by_layer_files`` and the widths with ``--precisions``. Its ``MACs`` column is "-"; here it
is counted, so that its cost by operations works too.

``accuracy`` is top-1 in per cent and ``loss`` the mean cross-entropy where the data has class
labels; else they are agreement with the float model ("-" where outputs are no class scores) and the
divergence from it. Both are measured through the simulator on the first samples of the evaluation
data; how many is in the result. Layers are the ops with weights that the recipe does not leave in
float; clip ranges are the recipe's at every width, and weights are rounded to nearest, where
CalibTIP has tuned both by AdaQuant.

Carries measurements, not a recipe. ``qviz allocate --losses`` reads them; the losses that it
measures itself, on calibration data and with ranges for each width, it writes in the same form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qviz.evaluate import divergence_metric, outputs
from qviz.execute import Edits
from qviz.export.calibtip_csv import texts
from qviz.export.files import write_files
from qviz.export.request import Request
from qviz.metrics import score
from qviz.progress import Reporter
from qviz.recipe import Override, Recipe, resolve
from qviz.search.layer_losses import LayerLoss, LayerLosses
from qviz.search.widths import BASE, Layer, square
from qviz.sweep import sweep

WIDTHS = (7, 6, 5, 4, 3, 2)
#: Of these only the one that CalibTIP's advanced pipeline uses, where all would take too long.
FEW_WIDTHS = (4,)
#: Samples, and multiply-accumulates that all runs together may take.
MOST, LEAST, MACS = 256, 16, 10**12
#: Bytes of kept values per shard.
BUDGET = 1 << 30
BATCH = 16


def export(request: Request) -> dict[str, Any]:
    """Measure, and write one file per width.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    base = _eight(request.recipe)
    layers = _layers(request, base)
    widths: tuple[int, ...] = WIDTHS
    room = MACS // max(1, request.graph.macs * (1 + len(layers) * len(widths) // 2))
    if room < LEAST:
        widths = FEW_WIDTHS
        room = MACS // max(1, request.graph.macs * (1 + len(layers) * len(widths) // 2))
    data = request.data.head(max(LEAST, min(MOST, room)))
    reference = outputs(request.simulator.program, data, batch_size=BATCH)
    judge = partial(_judged, reference=reference.values, targets=reference.targets)
    variants: dict[str, Callable[[], Edits]] = {"-": partial(request.simulator.edits, base)}
    for layer, operands in layers.items():
        for width in widths:
            changed = base.override(*(Override(name, bits=width) for name in operands))
            variants[f"{layer} {width}"] = partial(request.simulator.edits, changed)
    made: dict[str, list[Tensor]] = {key: [] for key in variants}
    report = Reporter("measure widths", len(variants) * data.count, request.progress)
    for part in sweep(
        request.simulator,
        data,
        request.simulator.edits(base),
        variants,
        batch_size=BATCH,
        budget=BUDGET,
        order=lambda: tuple(variants),
        finished=lambda _key, _start: False,
    ):
        made[part.key].append(part.values)
        report.step(part.key, len(part.values))
    found = {key: judge(torch.cat(parts)) for key, parts in made.items()}
    losses = _losses(request, layers, widths, found)
    return write_files(request.folder, texts(losses)) | {
        "layers": len(layers),
        "widths": list(widths),
        "samples": data.count,
        "note": f"measured on {data.count} samples of {request.data.name}",
    }


def _eight(recipe: Recipe) -> Recipe:
    """The recipe at 8 bits throughout; what is float stays float."""
    plain = tuple(replace(o, bits=None) for o in recipe.overrides if o.int8 is not None)
    return replace(recipe, weight_bits=8, activation_bits=8, overrides=plain)


def _layers(request: Request, base: Recipe) -> dict[str, list[str]]:
    """Op with an int8 weight -> its int8 operands."""
    decisions = resolve(base, request.graph)
    found = {}
    for op in request.graph.quantizable:
        own = [o for o in op.operands if decisions[o.name].int8]
        if any(o.kind == "weight" for o in own):
            found[op.name] = [o.name for o in own]
    return found


def _judged(
    values: Tensor, *, reference: Tensor, targets: Tensor | None
) -> tuple[float | None, float]:
    """Accuracy in per cent, None where there are no classes, and loss."""
    classes = reference.dim() == 2 and reference.shape[1] > 1
    if classes and targets is not None and targets.numel() == len(values):
        labels = targets.reshape(-1)
        if not labels.is_floating_point():
            right = float((values.argmax(1) == labels).double().mean())
            loss = torch.nn.functional.cross_entropy(values.double(), labels.long())
            return 100 * right, float(loss)
    distance = score(divergence_metric(reference), values, None, reference).value
    if not classes:
        return None, distance
    return 100 * float((values.argmax(1) == reference.argmax(1)).double().mean()), distance


def _losses(
    request: Request,
    layers: dict[str, list[str]],
    widths: tuple[int, ...],
    found: dict[str, tuple[float | None, float]],
) -> LayerLosses:
    values = []
    for layer in layers:
        op = request.graph.ops[layer]
        weight = next(o.tensor for o in op.operands if o.kind == "weight")
        size = request.simulator.program.parameter(weight).numel()
        values.append(Layer(layer, (layer,), size, op.macs))
    rows = [
        LayerLoss(layer, width, found[key][1], _part(found[key][0]))
        for layer in layers
        for width in square(widths)
        for key in (f"{layer} {width.weights}",)
    ]
    accuracy, loss = found["-"]
    return LayerLosses(
        tuple(values), BASE, loss, tuple(rows), metric="accuracy", base_metric=_part(accuracy)
    )


def _part(percent: float | None) -> float | None:
    return None if percent is None else percent / 100
