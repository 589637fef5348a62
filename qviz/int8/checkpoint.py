"""The int8 checkpoint: a folder that holds the integers, the decision, and a program that runs.

    DIR/
      model.safetensors   int8 weights NAME, float32 NAME_scale (one per output channel), biases,
                          and the untouched float tensors of everything that stays float; a weight
                          of at most 4 bits is NAME_packed, two codes per byte (int4.py)
      recipe.json         the decision (schema: qviz/schemas/recipe.schema.json)
      model.pt2           the program, weights included: torch.export.load needs only
                          ``import qviz.int8.pool`` for the integer operators
      float_scores.safetensors  what the float model scored on each sample of the evaluation data,
                          to compare with on the same samples (only if it was measured)
      checkpoint.json     what is what: ops, kernels, scales, origin, digests of the files
      certificate.json    what ``verify`` found (certificate.py)

``load_checkpoint`` gives a module that takes and gives what the model did.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from qviz import __version__
from qviz.affine import range_params
from qviz.data import Batch
from qviz.errors import CheckpointError, DataError, ModelError, ShapeError
from qviz.int8 import moving, placement, twin
from qviz.int8.folder import EXPORT_AGAIN, check_file, read_manifest, write_folder
from qviz.int8.lower import Lowered
from qviz.int8.parity import flat_inputs
from qviz.int8.stored import is_packed, stored_program, stored_tensors, unpacked
from qviz.loading_pt2 import load_exported
from qviz.recipe import Recipe, activation_grid, resolve
from qviz.rewrite import get_attr

WEIGHTS = "model.safetensors"
PROGRAM = "model.pt2"
RECIPE = "recipe.json"
FLOAT_SCORES = "float_scores.safetensors"

EPILOGUE = "acc * (x_scale * weight_scale) + bias (+ residual) (activation) (round to codes)"


def save_checkpoint(
    lowered: Lowered,
    folder: str | Path,
    *,
    origin: Mapping[str, Any] | None = None,
    float_scores: Tensor | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        lowered: the integer program.
        folder: made if it is not there; files of an older checkpoint in it are replaced.
        origin: what the manifest records beside: model, data, metric. JSON values.
        float_scores: ``[n]``, what the float model scores on each sample of the evaluation data.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    program = export_program(lowered)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer)
    files = {
        WEIGHTS: to_safetensors(
            stored_tensors(lowered), metadata={"format": "pt", "producer": "qviz"}
        ),
        RECIPE: lowered.recipe.to_json().encode(),
        PROGRAM: buffer.getvalue(),
    }
    if float_scores is not None:
        files[FLOAT_SCORES] = to_safetensors({"scores": float_scores.detach().cpu().contiguous()})
    held = {**_manifest(lowered, program), **(origin or {})}
    packs = any(is_packed(w) for w in lowered.weights.values())
    write_folder(Path(folder), files, held, version=2 if packs else 1)


def export_program(lowered: Lowered) -> ExportedProgram:
    """What is saved: the lowered program, narrow weights packed, its batch size free."""
    module = stored_program(lowered)
    inputs: dict[int | str, Tensor] = {}
    free: dict[int | str, dict[int, Any]] = {}
    nodes = {n.name: n for n in lowered.graph.module.graph.nodes}
    for item in lowered.graph.inputs:
        value = nodes[item.node].meta["val"]
        sizes = [s if isinstance(s, int) else int(s.node.hint) for s in value.shape]
        inputs[item.key] = torch.zeros(sizes, dtype=value.dtype)
        free[item.key] = {i: Dim.AUTO for i, s in enumerate(value.shape) if not isinstance(s, int)}
    args = tuple(inputs[k] for k in sorted(k for k in inputs if isinstance(k, int)))
    kwargs = {k: v for k, v in inputs.items() if isinstance(k, str)}
    shapes = [free[k] for k in (*range(len(args)), *kwargs)]
    names = [str(n.target) for n in module.graph.nodes if n.op == "placeholder"]
    spec = dict(zip(names, shapes, strict=True)) if kwargs else tuple(shapes)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, args, kwargs, dynamic_shapes=spec, strict=False)
    for node in program.graph.nodes:
        # Stack traces and module paths would carry this machine's folders into the file.
        node.meta = {k: v for k, v in node.meta.items() if k in ("val", "tensor_meta")}
    return program


def _manifest(lowered: Lowered, program: ExportedProgram) -> dict[str, Any]:
    graph = lowered.graph
    before = _integer_calls(lowered.module)
    after = _integer_calls(program.graph_module)
    assert [n.target for n in before] == [n.target for n in after]
    calls = {b.name: lowered.calls.get(a.name, a.name) for a, b in zip(before, after, strict=True)}
    return {
        "producer": {"qviz": __version__, "torch": torch.__version__},
        "arithmetic": {
            "rounding": "half to even",
            "accumulator": "int32",
            "epilogue": EPILOGUE,
            "profile": lowered.recipe.profile,
        },
        "inputs": [_input(lowered, i) for i in range(len(graph.inputs))],
        "outputs": list(graph.outputs),
        "ops": [asdict(row) for row in lowered.rows],
        "calls": calls,
        "weights": {
            name: {
                "parameter": w.parameter,
                "bits": w.bits,
                "packing": "int4" if is_packed(w) else "int8",
                "axis": w.axis,
                "transposed": w.transposed,
                "shape": list(w.codes.shape),
            }
            for name, w in lowered.weights.items()
        },
        "activations": _activations(lowered),
        "float_bytes": sum(p.numel() * p.element_size() for p in _parameters(graph.module)),
    }


def _integer_calls(module: fx.GraphModule) -> list[fx.Node]:
    nodes = module.graph.nodes
    calls = [n for n in nodes if n.op == "call_function" and twin.is_integer_call(n)]
    return [n for n in calls if twin.kernel_of(n) != "unpack_int4"]


def _parameters(module: fx.GraphModule) -> list[Tensor]:
    names = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    return [get_attr(module, name) for name in names]


def _input(lowered: Lowered, index: int) -> dict[str, Any]:
    item = lowered.graph.inputs[index]
    info = lowered.graph.tensors[item.tensor]
    return {
        "name": item.tensor,
        "key": item.key,
        "dtype": info.dtype,
        "batch_dim": info.batch_dim,
        "shape": list(info.shape),
    }


def _activations(lowered: Lowered) -> dict[str, Any]:
    """Grids of the tensors that are codes: by tensor, then by bit width."""
    graph, recipe = lowered.graph, lowered.recipe
    decisions = resolve(recipe, graph)
    found: dict[str, Any] = {}
    for operand in graph.operands.values():
        decision = decisions[operand.name]
        if operand.kind != "activation" or not decision.int8:
            continue
        chosen = recipe.range_of[operand.tensor]
        grid = activation_grid(recipe, graph, operand.tensor, decision.bits)
        params = range_params(chosen.lo, chosen.hi, grid)
        found.setdefault(operand.tensor, {})[str(decision.bits)] = {
            "scale": float(params.scale),
            "quant_min": grid.quant_min,
            "quant_max": grid.quant_max,
            "range": [chosen.lo, chosen.hi],
            "calibrator": chosen.calibrator,
        }
    return found


class Checkpoint(nn.Module):
    """An int8 model read from a folder; call it as the original model was called.

    ``.to("cuda")`` moves it to a GPU; ``.to(torch.float16)`` (or bfloat16) chooses what its float
    ops run in. Inputs and outputs stay float32 (moving.py).

    Attributes:
        folder: where it was read from.
        manifest: ``checkpoint.json``.
        program: the integer program.
        place: its device and the type of its float ops.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], program: fx.GraphModule) -> None:
        super().__init__()
        self.folder = folder
        self.manifest = manifest
        self.program = program
        self.place = placement.HOME
        self._source = program.graph

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Checkpoint:
        """Every ``.to()``, ``.cuda()``, ``.half()`` ... ends here."""
        place = placement.asked(fn, self.place)
        if place == self.place:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        else:
            self.program = moving.placed(self.program, self._source, place)
            self.place = place
        return self

    @property
    def recipe(self) -> Recipe:
        """The decision it was made by."""
        path = check_file(self.folder, self.manifest, RECIPE)
        return Recipe.from_json(path.read_text(encoding="utf-8"), str(path))

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:  # noqa: ANN401 - as the model does
        """Run the integer program on a batch of any size.

        An input may be given by position or by name, however the model was captured.

        Raises:
            DataError: an input is missing, or is not one of the model's.
            ShapeError: an input has another shape or dtype than the model takes.
            DeviceError: an input lies elsewhere than the model, or the GPU's memory is full.
        """
        args, kwargs = _arranged(self.manifest["inputs"], args, kwargs)
        placement.check_inputs((*args, *kwargs.values()), self.place)
        with torch.no_grad(), placement.reported():
            return self.program(*args, **kwargs)

    def run(self, batch: Batch) -> list[Any]:
        """The outputs for a batch, flat; what the model does not take is left out."""
        for item, value in zip(self.manifest["inputs"], self.inputs(batch), strict=True):
            _check_input(item, value)
        placement.check_inputs(self.inputs(batch), self.place)
        with placement.reported():
            return run_flat(self.program, batch)

    def inputs(self, batch: Batch) -> list[Tensor]:
        """A batch's tensors in the order of the program's inputs."""
        return flat_inputs(self.program, batch)


def _arranged(
    inputs: list[dict[str, Any]], args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Arguments as the program takes them."""
    given: dict[str, Tensor] = dict(zip((i["name"] for i in inputs), args, strict=False)) | {
        **kwargs
    }
    names = [i["name"] for i in inputs]
    strangers = [k for k in kwargs if k not in names]
    if strangers or len(args) > len(inputs):
        raise DataError(
            f"input {strangers[0]}" if strangers else f"input {len(inputs)}",
            "the model has no such input",
            f"Give {', '.join(names)}",
        )
    for item in inputs:
        if item["name"] not in given:
            raise DataError(
                f"input {item['name']}", "the model needs it, it was not given", "Give it"
            )
        _check_input(item, given[item["name"]])
    positional = tuple(given[i["name"]] for i in inputs if isinstance(i["key"], int))
    return positional, {i["key"]: given[i["name"]] for i in inputs if isinstance(i["key"], str)}


def run_flat(module: fx.GraphModule, batch: Batch) -> list[Any]:
    """Outputs of a program for a batch, in the order of its tree."""
    spec = module.graph._codegen.pytree_info.in_spec  # type: ignore[attr-defined]
    positional, named = spec.children()
    args = batch.args[: positional.num_leaves]
    kwargs = {k: batch.kwargs[k] for k in named.context or ()}
    with torch.no_grad():
        return torch.utils._pytree.tree_leaves(module(*args, **kwargs))


def _check_input(item: Mapping[str, Any], value: Tensor) -> None:
    shape = list(value.shape)
    if item["batch_dim"] is not None and len(shape) > item["batch_dim"]:
        del shape[item["batch_dim"]]
    dtype = str(value.dtype).removeprefix("torch.")
    wanted = item["shape"]
    fits = len(shape) == len(wanted) and all(
        w in (s, -1) for s, w in zip(shape, wanted, strict=True)
    )
    if not fits or dtype != item["dtype"]:
        raise ShapeError(
            f"input {item['name']}",
            f"samples are {dtype} {tuple(shape)}, the model takes {item['dtype']} {tuple(wanted)}",
            "Give data as the model was trained on, preprocessing included",
        )


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read an int8 checkpoint.

    Args:
        folder: written by ``session.export`` or ``qviz export``.

    Returns:
        A module: same inputs and outputs as the model, any batch size.

    Raises:
        CheckpointError: the folder is no checkpoint, or a file is missing or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name in (WEIGHTS, RECIPE):
        check_file(folder, manifest, name)
    path = check_file(folder, manifest, PROGRAM)
    try:
        program = load_exported(path).module(check_guards=False)
    except ModelError as failure:
        raise CheckpointError(failure.thing, failure.reason, EXPORT_AGAIN) from failure
    assert isinstance(program, fx.GraphModule)
    # A module of its own: torch.export's checks its inputs a second time, in 80 us.
    return Checkpoint(folder, manifest, unpacked(program))
