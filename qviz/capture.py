"""From a float model to a Graph: torch.export once, rewrite, fold, name.

The user's module is never changed: its ``training`` flags are restored, and the graph owns its
weights.
"""

from __future__ import annotations

import inspect
import io
import logging
import re
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from qviz import contexts, naming, optypes, rewrite
from qviz.data import Batch
from qviz.errors import DataError, UnsupportedModelError
from qviz.facts import Facts
from qviz.graph import Graph, GraphInput, Op, Operand, TensorInfo
from qviz.normalize import normalize
from qviz.rewrite import aten

#: Tracing keeps its state in globals: two captures at a time get in each other's way.
_TRACING = threading.Lock()


def capture(
    model: nn.Module | ExportedProgram, batch: Batch, *, fold_batch_norm: bool = True
) -> Graph:
    """Capture ``model`` as a graph whose batch size is free.

    Args:
        model: any module that torch.export takes, or a program it saved.
        batch: a few samples to trace with; only shapes and dtypes matter.
        fold_batch_norm: fold batch norm into the op before it (Wu et al. 2020, eq. 16). False is
            for comparison: no engine runs int8 that way.

    Raises:
        UnsupportedModelError: torch.export refuses the model or fixes its batch size.
        DataError: ``forward`` cannot be called with the batch.
    """
    name = type(model).__name__ if isinstance(model, nn.Module) else "program"
    for key, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise UnsupportedModelError(
                name,
                f"parameter {key} is {kind}, ranges need float32",
                "Convert with model.float()",
            )
    with _TRACING:
        if isinstance(model, nn.Module):
            batch = _at_least_two(batch)
            program = _export(model, batch, name)
        else:
            program = model
        symbols = _batch_symbols(model, program, batch, name)
        module = _own_module(program, name)
        rewrite.drop_noops(module)
        normalize(module)
        rewrite.decompose_attention(module)
        folded = rewrite.fold_batch_norm(module) if fold_batch_norm else {}
        return _assemble(name, module, symbols, folded)


def _at_least_two(batch: Batch) -> Batch:
    # torch.export takes a size of 1 for a constant
    if batch.size >= 2:
        return batch

    def twice(x: Tensor) -> Tensor:
        return torch.cat([x, x]) if x.dim() and x.shape[0] == 1 else x

    kwargs = {k: twice(v) for k, v in batch.kwargs.items()}
    return Batch(tuple(twice(x) for x in batch.args), kwargs, None, 2)


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings, log or graph on stderr: what torch.export says becomes one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    before = {m: m.training for m in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _export(model: nn.Module, batch: Batch, name: str) -> ExportedProgram:
    def dynamic(x: Tensor) -> dict[int, Any] | None:
        return {0: Dim.AUTO} if x.dim() and x.shape[0] == batch.size else None

    shapes = (
        tuple(dynamic(x) for x in batch.args),
        {k: dynamic(v) for k, v in batch.kwargs.items()},
    )
    spec = _by_name(model, batch, shapes)
    batch = batch.copy()  # torch.export leaves marks on the tensors it traces with
    with _silence(), torch.no_grad(), _evaluation_mode(model):
        try:
            return torch.export.export(
                model, batch.args, dict(batch.kwargs), dynamic_shapes=spec, strict=False
            )
        except Exception as error:  # torch.export raises whatever the model's code raises
            raise _refusal(name, error) from error


def _by_name(model: nn.Module, batch: Batch, shapes: tuple[Any, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(model.forward).bind(*batch.args, **batch.kwargs)
    except TypeError as error:
        raise DataError(
            "data",
            f"the forward of {type(model).__name__} cannot be called with it: {error}",
            "Let the data yield the inputs in order, or as a dict of argument names",
        ) from None
    positional = iter(shapes[0])
    named: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            named[key] = {k: shapes[1][k] for k in value}
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            named[key] = tuple(positional)
        else:
            named[key] = shapes[1][key] if key in shapes[1] else next(positional)
    return named


def _refusal(name: str, error: Exception) -> UnsupportedModelError:
    """What torch.export said, in one line: the op or statement, the line, what to change."""
    text = str(error)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    inner = re.findall(r'File "([^"]+)", line (\d+)', text)
    inner = [f for f in inner if "/torch/" not in f[0]]
    where = ""
    if inner:
        where = f" at {inner[-1][0].rsplit('/', 1)[-1]}:{inner[-1][1]}"
    elif frames and "qviz" not in frames[-1].filename:
        where = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}"
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    first = re.sub(r"\s*\(unhinted:.*", "", first).rstrip(".:")
    cure = "Check that the data has the shape and dtype the model expects"
    if "data-dependent" in text.lower() or "GuardOnDataDependent" in type(error).__name__:
        cure = "Replace Python control flow on tensor values by torch.where or a fixed branch"
    elif "Constraints violated" in text or "specialized" in text:
        cure = "Use x.shape[0] instead of a fixed batch size in reshapes"
    elif ".item(" in text or "numpy" in text:
        cure = "Keep tensors as tensors in forward: no .item(), .numpy() or float()"
    return UnsupportedModelError(name, f"torch.export refuses it{where}: {first[:240]}", cure)


def _batch_symbols(
    model: nn.Module | ExportedProgram, program: ExportedProgram, batch: Batch, name: str
) -> dict[Any, int]:
    """The symbols that stand for the batch size, each with the size it was traced with."""
    symbols: dict[Any, int] = {}
    users = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in users and isinstance(value, Tensor):
            if value.dim() and not isinstance(value.shape[0], int):
                for symbol in value.shape[0].node.expr.free_symbols:
                    symbols[symbol] = int(value.shape[0].node.hint or batch.size)
            varies = [i for i, s in enumerate(value.shape) if i and not isinstance(s, int)]
            if varies:
                raise UnsupportedModelError(
                    name,
                    f"axis {varies[0]} of its input {node.name} has no fixed size",
                    "Export it with a fixed size for every axis but the first",
                )
    if not symbols and isinstance(model, ExportedProgram):
        raise UnsupportedModelError(
            name,
            "it was exported for one batch size",
            'Export it with dynamic_shapes, {0: torch.export.Dim("batch")} for every input',
        )
    if not symbols:
        raise UnsupportedModelError(
            name,
            f"its batch size is fixed to {batch.size} by the code of forward",
            "Use x.shape[0] or -1 instead of a number for the batch axis",
        )
    return symbols


def _own_module(program: ExportedProgram, name: str) -> fx.GraphModule:
    """A functional copy of the program with weights of its own."""
    with _silence():
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        contexts.inline(module, name)
        if not rewrite.functionalize(module) or rewrite.mutates(module):
            module = program.run_decompositions({}).module(check_guards=False)
            assert isinstance(module, fx.GraphModule)
            contexts.inline(module, name)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = rewrite.get_attr(module, node.target)
            owned = value.detach().clone()
            owned = owned.float() if owned.dtype == torch.float64 else owned
            rewrite.set_attr(module, node.target, owned)
    return module


def _assemble(
    name: str, module: fx.GraphModule, symbols: dict[Any, int], folded: dict[fx.Node, fx.Node]
) -> Graph:
    nodes = [n for n in module.graph.nodes if n.op == "call_function" and _is_op(n)]
    names = naming.op_names(nodes)
    tensor_names = dict(names)
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    input_names = naming.input_names(
        [n for n in placeholders if isinstance(n.meta.get("val"), Tensor)], names.values()
    )
    tensor_names |= input_names
    for node in module.graph.nodes:
        if getattr(node.target, "__name__", "") == "getitem" and node.args[0] in tensor_names:
            tensor_names[node] = f"{tensor_names[node.args[0]]}[{node.args[1]}]"
    facts = Facts(module, symbols, tensor_names)
    ops = {names[n]: _op(n, names[n], facts) for n in nodes}
    consumers: dict[str, list[str]] = {}
    for op in ops.values():
        for operand in op.operands:
            if operand.kind == "activation":
                consumers.setdefault(operand.tensor, []).append(operand.name)
    tensors = {}
    for node in module.graph.nodes:
        if node in tensor_names and isinstance(node.meta.get("val"), Tensor):
            info = facts.tensor(node)
            readers = tuple(consumers.get(info.name, ()))
            tensors[info.name] = TensorInfo(**{**info.__dict__, "consumers": readers})
    output = next(n for n in module.graph.nodes if n.op == "output")
    leaves = pytree.tree_leaves(output.args[0])
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    return Graph(
        name=name,
        module=module,
        ops=ops,
        tensors=tensors,
        inputs=_inputs(name, placeholders, info.in_spec, input_names),
        outputs=tuple(tensor_names[n] for n in leaves if n in tensor_names),
        output_spec=info.out_spec,
        weights={
            o.tensor: o.tensor for op in ops.values() for o in op.operands if o.kind == "weight"
        },
        folded={
            naming.module_path(norm) or norm.name: names[host] for norm, host in folded.items()
        },
    )


def _is_op(node: fx.Node) -> bool:
    value = node.meta.get("val")
    leaves = pytree.tree_leaves(value)
    tensor = bool(leaves) and all(isinstance(v, Tensor) for v in leaves)
    return tensor and getattr(node.target, "__name__", "") != "getitem"


def _inputs(
    name: str, placeholders: list[fx.Node], in_spec: pytree.TreeSpec, names: dict[fx.Node, str]
) -> tuple[GraphInput, ...]:
    count = in_spec.num_leaves
    args, kwargs = pytree.tree_unflatten(list(range(count)), in_spec)
    keys: dict[int, int | str] = {}
    for key, value in [*enumerate(args), *kwargs.items()]:
        if not isinstance(value, int):
            raise UnsupportedModelError(
                name,
                f"its input {key} is a {type(value).__name__} of tensors",
                "Wrap the model so that every argument of forward is one tensor",
            )
        keys[value] = key
    # what is no tensor (None, a number) torch.export has made part of the graph
    return tuple(
        GraphInput(names[n], n.name, keys[i]) for i, n in enumerate(placeholders) if n in names
    )


def _op(node: fx.Node, name: str, facts: Facts) -> Op:
    operands = _operands(node, name, facts)
    passthrough = not operands and optypes.passes_codes(node)
    value = node.meta["val"]
    out = facts.tensor(node).shape if isinstance(value, Tensor) else ()
    parameters = sum(
        rewrite.get_attr(facts.module, str(n.target)).numel()
        for n in node.all_input_nodes
        if n.op == "get_attr"
    )
    reason: str | None = None
    if not operands and (not passthrough or not facts.depends[node]):
        reason = _float_reason(node, facts)
    return Op(
        name=name,
        type=optypes.label(node),
        target=str(node.target),
        node=node.name,
        operands=operands,
        reads=tuple(facts.names[n] for n in node.all_input_nodes if n in facts.names),
        passthrough=passthrough,
        reason=reason,
        module=naming.module_path(node),
        shape=out,
        macs=optypes.macs(node, facts.symbols, facts.samples),
        parameters=parameters,
        source=naming.source_line(node),
    )


def _float_reason(node: fx.Node, facts: Facts) -> str:
    if not facts.depends[node]:
        return "does not depend on the input: a constant"
    kind = optypes.label(node)
    value = node.meta["val"]
    if isinstance(value, Tensor) and not value.is_floating_point():
        return optypes.float_reason(node)
    if kind == "add" and optypes.add_reason(node) is None:
        return "adds a constant"
    if kind.startswith("conv_transpose") and len(node.args) > 6 and node.args[6] != 1:
        return "grouped transposed convolution has no int8 arithmetic"
    if kind in ("linear", "matmul") or kind.startswith("conv"):
        return "its operands are not an activation and a stored weight, or two activations"
    return optypes.float_reason(node)


def _operands(node: fx.Node, name: str, facts: Facts) -> tuple[Operand, ...]:
    def activation(position: int, suffix: str, *, fused: bool = False) -> Operand | None:
        source = node.args[position]
        if not isinstance(source, fx.Node) or not facts.depends[source]:
            return None
        value = source.meta["val"]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        tensor = facts.names[facts.root(source)]
        return Operand(f"{name}/{suffix}", name, "activation", tensor, position, after_matmul=fused)

    def weight(position: int, axis: int) -> Operand | None:
        source = node.args[position]
        if not isinstance(source, fx.Node) or source.op != "get_attr":
            return None
        return Operand(f"{name}/weight", name, "weight", str(source.target), position, axis=axis)

    def both(*pair: Operand | None) -> tuple[Operand, ...]:
        return tuple(p for p in pair if p is not None) if all(pair) else ()

    target = node.target
    if target in CONVS_AND_LINEAR:
        return both(activation(0, "input"), weight(1, 0))
    if target in rewrite.TRANSPOSED_CONVS:
        groups: Any = node.args[6] if len(node.args) > 6 else 1
        return both(activation(0, "input"), weight(1, 1)) if groups == 1 else ()
    if target is aten.addmm.default and not node.kwargs:
        return both(activation(1, "input"), weight(2, 1))
    if target is aten.baddbmm.default and not node.kwargs:
        return both(activation(1, "0"), activation(2, "1"))
    if target in optypes.MATMULS and target is not aten.baddbmm.default:
        if isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr":
            # a stored matrix is a linear layer's weight; stored vectors and stacks have no kernel
            matrix = node.args[1].meta["val"].dim() == 2
            return both(activation(0, "input"), weight(1, 1)) if matrix else ()
        return both(activation(0, "0"), activation(1, "1"))
    if target in optypes.ADDS and optypes.add_reason(node) is None:
        fused = _fused_operand(node, facts)
        return both(activation(0, "0", fused=fused == 0), activation(1, "1", fused=fused == 1))
    return ()


CONVS_AND_LINEAR = {*rewrite.CONVS, aten.linear.default}


def _fused_operand(node: fx.Node, facts: Facts) -> int | None:
    """Which input of an add an engine can add before rounding: the later matrix product."""
    inputs: list[Any] = list(node.args[:2])
    able = [i for i in (0, 1) if facts.after_matmul(inputs[i])]
    return max(able, key=lambda i: facts.order[inputs[i]], default=None)
