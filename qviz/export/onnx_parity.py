"""ONNX Runtime against the simulation, op by op, on identical input codes.

Each int8 op is cut out of the file with its DequantizeLinear, bias and activation, up to the codes
it makes or the float it gives, and runs alone on the simulated codes. So a rounding that falls the
other way is counted once, where it happens, and does not grow with depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qviz import affine
from qviz.affine import QuantParams
from qviz.data import Batch
from qviz.errors import FormatError, ParityError
from qviz.export.onnx_package import onnx
from qviz.export.onnx_pieces import Piece, Pieces
from qviz.export.onnx_run import Session
from qviz.int8.parity import EQUAL, MOST_ONE_STEP, Parity, ParityRow
from qviz.recipe import Recipe
from qviz.simulate import Simulator

#: Share of outputs of a float16 file that may be one step off: its sums have 11 bits, so that a
#: result within a sixteenth of a step of a tie may fall to the other side.
MOST_HALF = 0.1
#: Share that may be further off: where large sums cancel, their 11 bits are more than a step.
MOST_HALF_MORE = 1e-4
CURE = (
    "Run it on a CPU with VNNI instructions (without them ONNX Runtime's uint8 kernels saturate), "
    "and see which ops differ in parity.json"
)
REASON = (
    "Every op gets the simulated codes as input. ONNX Runtime divides by a scale where the "
    "simulation multiplies by its inverse, and rounds each bias to the step of the accumulator: "
    "what lies next to a tie may fall one step to the other side, nothing may fall further."
)
#: The values of a model's tensors for a batch, by the names they have in the file.
Values = Callable[[Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class OnnxParity(Parity):
    """Every int8 op of a file under ONNX Runtime against the simulation.

    Attributes:
        allowed_more: share of outputs that may be off by more than one step: none, but in float16.
    """

    allowed_more: float = 0.0

    @property
    def passed(self) -> bool:
        """Nothing off by more than one step, and no more by one than rounding explains."""
        return not self._too_far and self.share <= self.allowed

    @property
    def _too_far(self) -> bool:
        return self.more > self.allowed_more * self.count

    def check(self, kernel: str = "kernel in ONNX Runtime", cure: str = CURE) -> None:
        """Raise what is wrong.

        Args:
            kernel: what runs the op.
            cure: what may help.

        Raises:
            ParityError: an op is off by more than one step, or too many outputs by one.
        """
        worst = max(self.rows, key=lambda r: r.largest, default=None)
        if self._too_far and worst is not None:
            raise ParityError(
                worst.op,
                f"its {kernel} is {worst.largest:.3g} steps off the simulation "
                f"({worst.more} of {worst.count} outputs are off by more than one)",
                cure,
            )
        if not self.passed:
            raise ParityError(
                "ONNX Runtime",
                f"{self.share:.2%} of all outputs are one step off the simulation, more than "
                f"{self.allowed:.2%}",
                cure,
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "passed": self.passed,
            "count": self.count,
            "one_step": self.one_step,
            "more": self.more,
            "share": self.share,
            "allowed": self.allowed,
            "allowed_more": self.allowed_more,
            "reason": REASON,
            "rows": [asdict(r) for r in self.rows],
        }


def simulated(simulator: Simulator, recipe: Recipe) -> Values:
    """What every tensor is in the simulation of a recipe."""
    program, edits = simulator.program, simulator.edits(recipe)

    def values(batch: Batch) -> Mapping[str, Tensor]:
        slots = program.inputs(batch)
        program.run(slots, edits, keep=True)
        found = {
            name: slots[slot]
            for name, slot in program.slot_of_tensor.items()
            if isinstance(slots[slot], Tensor)
        }
        return found | {f"input/{i.tensor}": found[i.tensor] for i in program.graph.inputs}

    return values


def literal(model: Any) -> Values:  # noqa: ANN401 - a ModelProto
    """What every tensor is when the file is computed word by word, nothing fused.

    For where there is no simulation at hand: a file alone.

    Args:
        model: the file; not changed.
    """
    proto = type(model)()
    proto.CopyFrom(model)
    names = sorted({name for piece in Pieces(model) for name in piece.values})
    known = {o.name for o in proto.graph.output} | {i.name for i in proto.graph.input}
    for name in names:
        if name not in known:
            proto.graph.output.append(onnx().helper.make_empty_tensor_value_info(name))
    session = Session(proto.SerializeToString(), fused=False)

    def values(batch: Batch) -> Mapping[str, Tensor]:
        feed = session.feed(batch)
        inside = [n for n in names if n not in feed]
        found = {
            name: torch.from_numpy(value)
            for name, value in zip(inside, session.values(feed, inside), strict=True)
        }
        return found | {n: torch.from_numpy(v) for n, v in feed.items()}

    return values


def compare(
    path: str | Path | bytes, batches: Iterable[Batch], values: Values | None = None
) -> OnnxParity:
    """Compare every int8 op of a file under ONNX Runtime with the simulation.

    Args:
        path: of a file that qviz exported, or its content.
        batches: a few dozen samples do.
        values: of the tensors (``simulated``); None computes the file itself word by word in
            float, which is the simulation for whoever has the file alone.

    Returns:
        A row per op, and per tensor that is rounded by itself, in the order of the file.

    Raises:
        FormatError: it is no ONNX file, or ONNX Runtime refuses it.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    model = load(path)
    source = literal(model) if values is None else values
    running = [_Running(piece) for piece in Pieces(model)]
    for batch in batches:
        known = source(batch)
        for each in running:
            each.add(known)
    rows = tuple(each.row for each in running)
    count = max(sum(r.count for r in rows), 1)
    expected = sum(each.piece.bias_share * each.row.count for each in running) / count
    if any(each.piece.half for each in running):
        return OnnxParity(rows, MOST_HALF, MOST_HALF_MORE)
    return OnnxParity(rows, MOST_ONE_STEP + expected)


def load(path: str | Path | bytes) -> Any:  # noqa: ANN401 - a ModelProto
    """A file as a ``ModelProto``.

    Raises:
        FormatError: it is not there or no ONNX file.
        MissingExtraError: onnx is not installed.
    """
    package = onnx()
    named = "the ONNX graph" if isinstance(path, bytes) else str(path)
    try:
        model = package.load_from_string(path) if isinstance(path, bytes) else package.load(path)
    except OSError as failure:
        why = (failure.strerror or type(failure).__name__).lower()
        raise FormatError(named, f"it cannot be read ({why})", "Name an ONNX file") from failure
    except Exception as failure:  # protobuf's own errors
        raise FormatError(named, "it is no ONNX file, or damaged", "Export it again") from failure
    if not model.graph.node:
        raise FormatError(named, "it is no ONNX file, or damaged", "Export it again")
    return model


class _Running:
    """One piece of a file, run beside the simulation."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self._session = Session(piece.content)
        self.row = ParityRow(piece.op, piece.kernel, "codes", 0, 0, 0, 0, 0.0)

    def add(self, known: Mapping[str, Tensor]) -> None:
        """Compare on one batch's values."""
        piece = self.piece
        feed = {
            name: (_codes(known[source.value], source.grid) if source.grid else known[source.value])
            for name, source in piece.inputs.items()
        }
        arrays = {
            k: v.to(piece.dtypes.get(k, v.dtype)).contiguous().numpy() for k, v in feed.items()
        }
        made = torch.from_numpy(self._session.values(arrays)[0])
        wanted = known[piece.output.value]
        if piece.output.grid is not None:
            wanted = _codes(wanted, piece.output.grid)
        self.row = counted(self.row, made, wanted)


def _codes(value: Tensor, grid: QuantParams) -> Tensor:
    return affine.quantize(value, grid)


def counted(row: ParityRow, made: Tensor, wanted: Tensor) -> ParityRow:
    """A row with the outputs of one batch added."""
    floats = wanted.is_floating_point()
    away = (made.to(torch.float32) - wanted.to(torch.float32)).abs()
    if floats:
        away = away / (wanted.abs().amax().to(torch.float32).clamp_min(1e-30) / 127)
    exact = int((away <= (EQUAL if floats else 0)).sum())
    within = int((away <= 1).sum())
    largest = float(away.nan_to_num(float("inf")).max()) if away.numel() else 0.0
    return replace(
        row,
        output="float" if floats else "codes",
        count=row.count + away.numel(),
        exact=row.exact + exact,
        one_step=row.one_step + within - exact,
        more=row.more + away.numel() - within,
        largest=max(row.largest, largest),
    )
