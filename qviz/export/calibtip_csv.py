"""CalibTIP's files as values and back: losses per layer as CSV, allocations as text.

    per_layer_accuracy.A4.W4.csv    of its ``--per-layer`` run; the columns are below
    configs_resnet18.txt            ``Compression thr`` and ``Layers in int4``, a row per limit
    IP_resnet50_loss.txt            the same with a ``Configuration`` {'conv1': [8, 8], ...}

Names are module paths in both tools; a ``module.`` in front, of a DataParallel model, is taken off.
"""

from __future__ import annotations

import ast
import csv
import difflib
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from qviz.errors import FormatError
from qviz.search.layer_losses import LayerLoss, LayerLosses
from qviz.search.widths import BASE, Layer, Width

COLUMNS = (
    "base precision",
    "replaced precision",
    "replaced layer",
    "accuracy",
    "loss",
    "Parameters Size [Elements]",
    "MACs",
)
#: What the row of the base, and an unknown number, is called.
NONE = "-"
#: Name of a loss read from a file that does not say what it is.
LOSS = "loss"

#: Bits that a layer can have.
BITS = range(2, 9)
#: Column of an allocation's size.
SIZE = "Compression thr"

Row = Mapping[str, str | None]

_NAMED = re.compile(r"A(\d+)\.W(\d+)")


def file_of(width: Width) -> str:
    """Name of the file with the losses at one width."""
    return f"per_layer_accuracy.A{width.activations}.W{width.weights}.csv"


def texts(losses: LayerLosses) -> dict[str, str]:
    """File name -> CSV text, one file per width, as CalibTIP's integer programme reads them.

    ``accuracy`` is the metric in per cent where one was measured.
    """
    widths = sorted({row.width for row in losses.rows}, reverse=True)
    return {file_of(width): _text(losses, width) for width in widths}


def _text(losses: LayerLosses, width: Width) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    head = [losses.base.weights, width.weights]
    writer.writerow([*head, NONE, _share(losses.base_metric), _said(losses.base_loss), NONE, NONE])
    for row in losses.rows:
        if row.width == width:
            layer = losses.layer_of[row.layer]
            said = [_share(row.metric), _said(row.loss)]
            writer.writerow([*head, row.layer, *said, layer.elements, layer.macs])
    return text.getvalue()


def _share(value: float | None) -> str:
    return NONE if value is None else _said(100 * value)


def _said(value: float) -> str:
    return repr(float(value)).removesuffix(".0")  # as many digits as reading it back takes


def read_losses(paths: Sequence[Path], layers: Sequence[Layer], rest: int) -> LayerLosses:
    """Losses measured by CalibTIP, or written by ``texts``, for the layers of a model.

    The width is in the file's name, else both widths are its ``replaced precision``. Where the base
    differs from file to file, losses count from their own file's. Layers of the model that no file
    has keep the base's width.

    Args:
        paths: the files.
        layers: of the model.
        rest: parameters of the model that no width is given to, by ``layers.rest_of``; no file
            has them, and a limit in bytes counts them.

    Raises:
        FormatError: a file is none of these, or is of another model.
    """
    rows: list[LayerLoss] = []
    base: tuple[float, float | None] | None = None
    for path in paths:
        own, found = _read(path, layers)
        base = base or own
        shift = base[0] - own[0]
        rows += [LayerLoss(r.layer, r.width, r.loss + shift, r.metric) for r in found]
    if base is None:
        raise FormatError("layer losses", "no file is named", "Name at least one CSV file")
    order = {layer.name: index for index, layer in enumerate(layers)}
    known = all(row.metric is not None for row in rows) and base[1] is not None
    return LayerLosses(
        layers=tuple(layers),
        base=BASE,
        base_loss=base[0],
        rows=tuple(sorted(rows, key=lambda r: (order[r.layer], -r.width.weights))),
        loss=LOSS,
        rest=rest,
        metric="accuracy" if known else "",
        base_metric=base[1] if known else None,
        data=", ".join(path.name for path in paths),
    )


def _read(
    path: Path, layers: Sequence[Layer]
) -> tuple[tuple[float, float | None], list[LayerLoss]]:
    """The base's loss and accuracy, and one row per layer."""
    known = {layer.name: layer for layer in layers}
    columns, table = _table(path)
    if missing := [c for c in COLUMNS[1:5] if c not in columns]:
        raise FormatError(
            str(path),
            f"has no column {missing[0]!r}",
            "Name a per-layer CSV file of CalibTIP or of qviz export --formats calibtip-csv",
        )
    named = _NAMED.search(path.name)
    base: tuple[float, float | None] | None = None
    found: list[LayerLoss] = []
    for line, row in table:
        loss, accuracy = _number(path, line, row, "loss"), _number(path, line, row, "accuracy")
        if loss is None:
            raise FormatError(f"{path}, line {line}", "has no loss", "Measure that layer again")
        name = row["replaced layer"]
        if name == NONE:
            base = loss, accuracy
            continue
        if not name:
            raise FormatError(f"{path}, line {line}", "names no layer", "Name it, or - for none")
        width = _width(path, line, row)
        if named:
            width = Width(int(named[2]), int(named[1]))
        if width == BASE:  # its relaxed pipeline measures the base per layer too
            continue
        layer = known_layer(name, known, str(path))
        _check_size(path, line, row, layer)
        found.append(LayerLoss(layer.name, width, loss, accuracy))
    if base is None:
        raise FormatError(
            str(path), "has no row of the base, whose layer is -", "Let CalibTIP write it whole"
        )
    return base, found


def _table(path: Path, delimiter: str = ",") -> tuple[Sequence[str], list[tuple[int, Row]]]:
    """The columns, and each row with the line that it ends on."""
    reader = csv.DictReader(io.StringIO(_content(path)), delimiter=delimiter)
    try:
        columns = reader.fieldnames or ()
        return columns, [(reader.line_num, row) for row in reader]
    except csv.Error as failure:
        raise FormatError(str(path), str(failure), "Let CalibTIP write it again") from failure


def _width(path: Path, line: int, row: Row) -> Width:
    """Both widths as the row's precision."""
    column = "replaced precision"
    bits = _number(path, line, row, column)
    if bits is None or bits not in BITS:
        raise FormatError(
            f"{path}, line {line}",
            f"{column} is {row[column]!r}, not a number of bits from {BITS[0]} to {BITS[-1]}",
            "Correct it",
        )
    return Width(int(bits), int(bits))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        why = getattr(failure, "strerror", None) or "it is not text"
        raise FormatError(str(path), str(why).lower(), "Name a file of CalibTIP") from failure


def _number(path: Path, line: int, row: Row, column: str) -> float | None:
    text = (row.get(column) or NONE).strip()
    if text == NONE:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(
            f"{path}, line {line}", f"{column} is {text!r}, not a finite number", "Correct it"
        )
    return value / 100 if column == "accuracy" else value


def _check_size(path: Path, line: int, row: Row, layer: Layer) -> None:
    size = _number(path, line, row, "Parameters Size [Elements]")
    if size is not None and size != layer.elements:
        raise FormatError(
            f"{path}, line {line}",
            f"{layer.name} has {size:.12g} weights there, {layer.elements} here",
            "Name the losses of this model",
        )


def known_layer(name: str, known: Mapping[str, Layer], where: str) -> Layer:
    """The layer of that name.

    Raises:
        FormatError: the model has none.
    """
    own = name.removeprefix("module.")
    if own in known:
        return known[own]
    near = difflib.get_close_matches(own, known, 1, 0.6)
    raise FormatError(
        f"{where}: {name}",
        "the model has no such layer" + (f"; {near[0]} comes nearest" if near else ""),
        "Name a file of this model",
    )


def read_widths(path: Path, layers: Sequence[Layer], size: float | None = None) -> dict[str, Width]:
    """The widths of layers in CalibTIP's text of allocations; those not named have the base's.

    Args:
        path: the file.
        layers: of the model.
        size: which row, by its compression threshold; None where there is one row only.

    Raises:
        FormatError: it is no such file, has no such row, or is of another model.
    """
    columns, table = _table(path, "\t")
    column = next((c for c in ("Configuration", "Layers in int4") if table and c in columns), None)
    if column is None or SIZE not in columns:
        raise FormatError(
            str(path),
            "has no columns 'Compression thr' and 'Layers in int4' or 'Configuration'",
            "Name a configs_MODEL.txt or IP_MODEL_loss.txt of CalibTIP",
        )
    rows: dict[float, str] = {}
    for line, row in table:
        own = _number(path, line, row, SIZE)
        if own is None:
            raise FormatError(
                f"{path}, line {line}", f"has no {SIZE}", "Let CalibTIP write it again"
            )
        rows[own] = row[column] or ""
    chosen = next(iter(rows)) if size is None and len(rows) == 1 else size
    if chosen not in rows:
        there = ", ".join(f"{key:g}" for key in rows)
        raise FormatError(str(path), f"has the sizes {there}", "Name one of them with --size")
    known = {layer.name: layer for layer in layers}
    widths = {layer.name: BASE for layer in layers}
    for name, width in _configured(path, rows[chosen]).items():
        widths[known_layer(name, known, str(path)).name] = width
    return widths


def _configured(path: Path, text: str) -> dict[str, Width]:
    """Of a list of layers at 4 bits, or of {layer: [weight bits, activation bits]}."""
    try:
        value = ast.literal_eval(text)
        if isinstance(value, dict):
            found = {str(name): (w, a) for name, (w, a) in value.items()}
        else:
            found = {str(name): (4, 4) for name in (*value,)}
        bad = isinstance(value, str)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        bad = True
    if bad:
        raise FormatError(
            str(path), f"{text[:40]!r} is no list of layers", "Let CalibTIP write it again"
        )
    for name, bits in found.items():
        if not all(b in BITS for b in bits):
            raise FormatError(
                f"{path}: {name}",
                f"{list(bits)} are not two numbers of bits from {BITS[0]} to {BITS[-1]}",
                "Correct it",
            )
    return {name: Width(int(w), int(a)) for name, (w, a) in found.items()}
