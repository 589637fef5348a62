"""Custom node data for Model Explorer: a number or word per op, one file each.

``status`` says how each op runs, ``sensitivity`` what it alone does to the outputs (estimated by
one gradient pass), ``sqnr`` how well its worst int8 input survives rounding, ``amax`` the largest
limit of its int8 inputs, ``macs`` and ``parameters`` its size. The files colour the graph that
``torch.export.save`` writes of the same model ("Add per-node data", or ``--node_data_paths``).

Carries: what is measured here on the first samples of the evaluation data (how many is in the
result), by the names that ``torch.export`` gives to nodes. Does not carry: ranges and scales that
anything could be rebuilt from, or ops that capture has folded away or taken apart.
"""

from __future__ import annotations

from typing import Any

from qviz.coverage import coverage
from qviz.evaluate import divergence_metric, first_output
from qviz.export.files import write_files
from qviz.export.grids import Grids, grids_of
from qviz.export.layer_errors import Measured, measure
from qviz.export.request import Request
from qviz.node_data import OpNumber, model_explorer, op_numbers
from qviz.proxy import proxy
from qviz.recipe import resolve

SAMPLES = 32


def export(request: Request) -> dict[str, Any]:
    """Measure, and write one file per number.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    grids = grids_of(request)
    measured = measure(request, grids, ())
    worst = _by_op(request, grids, measured)
    rows = coverage(request.graph, request.recipe)
    amax = {op: largest for op, (_, largest) in worst.items()}
    numbers = [
        *op_numbers(rows, {op: sqnr for op, (sqnr, _) in worst.items()}),
        OpNumber("amax", "Largest limit of the int8 inputs", "", amax, log=True),
        _sensitivity(request),
    ]
    texts = {f"{n.key}.json": model_explorer(n, request.graph) for n in numbers if n.values}
    return write_files(request.folder, texts) | {
        "samples": measured.samples,
        "note": f"SQNR measured on {measured.samples} samples of {request.data.name}, sensitivity "
        f"estimated on {min(SAMPLES, request.data.count)}",
    }


def _by_op(request: Request, grids: Grids, measured: Measured) -> dict[str, tuple[float, float]]:
    """Op -> lowest SQNR and largest amax of its int8 activations."""
    decisions = resolve(request.recipe, request.graph)
    found = {}
    for op in request.graph.quantizable:
        own = [o.tensor for o in op.operands if o.kind == "activation" and decisions[o.name].int8]
        if own:
            limits = [grids.activations[t].range for t in own]
            found[op.name] = (
                min(measured.inputs[t].sqnr_db for t in own),
                max(max(abs(r.lo), abs(r.hi)) for r in limits),
            )
    return found


def _sensitivity(request: Request) -> OpNumber:
    simulator, recipe = request.simulator, request.recipe
    decisions = resolve(recipe, request.graph)
    int8 = {
        op.name: [o.name for o in op.operands if decisions[o.name].int8]
        for op in request.graph.quantizable
    }
    edits = {op: simulator.edits(recipe.only(*own)) for op, own in int8.items() if own}
    found = proxy(simulator, request.data, edits, samples=SAMPLES, progress=request.progress)
    batch = next(iter(request.data.head(2).batches(2)))
    program = simulator.program
    made = first_output(program.run(program.inputs(batch)), batch.size, program)
    title = f"Sensitivity: {divergence_metric(made).name} from float (estimated)"
    return OpNumber("sensitivity", title, "", {op: v for op, v in found.items() if v > 0}, log=True)
