"""One ONNX format as a folder: the file, its recipe, and the proof that it computes the simulation.

``model.onnx``, ``recipe.json`` (what is in the file) and ``parity.json`` (ONNX Runtime beside the
simulation), and whatever else a format brings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from qviz.errors import FormatError
from qviz.export.onnx_measure import measure
from qviz.export.onnx_model import OPSET, FloatType, onnx_model
from qviz.export.onnx_package import onnx
from qviz.export.request import Request
from qviz.int8.folder import unwritable
from qviz.recipe import Recipe
from qviz.store_files import replace_file

MODEL = "model.onnx"
RECIPE = "recipe.json"
PARITY = "parity.json"


def write(
    request: Request,
    recipe: Recipe,
    *,
    float_type: FloatType = "float32",
    for_ort: bool = False,
    beside: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write one format and measure it.

    Args:
        request: what to export and where.
        recipe: what goes into the file; its own if the request's is for another engine.
        float_type: of everything that is not int8.
        for_ort: lay it out for ONNX Runtime's CPU kernels.
        beside: other files of the format, text by name.
        facts: for ``parity.json`` and the result.

    Returns:
        Folder, files with their sizes, and ``onnxruntime``: what was measured.

    Raises:
        UnsupportedModelError: an op cannot be written.
        CheckpointError: the folder cannot be written.
        ParityError: ONNX Runtime does not compute what was simulated; the files are there.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    model = onnx_model(
        request.simulator,
        recipe,
        float_type=float_type,
        transposed_weights=for_ort,
        carry=for_ort,
        model_digest=str(request.origin.get("model", {}).get("digest", "")),
    )
    content = model.content()
    _check(content)
    files = {MODEL: content, RECIPE: recipe.to_json().encode()}
    files |= {name: text.encode() for name, text in (beside or {}).items()}
    _store(request, files)
    found = measure(
        request.folder / MODEL,
        request.simulator,
        recipe,
        request.data,
        request.metric,
        half=float_type == "float16",
        progress=request.progress,
    )
    said = {
        "opset": OPSET,
        "float_type": float_type,
        "sha256": hashlib.sha256(content).hexdigest(),
        "widened_for_bias": model.widened,
        **(facts or {}),
    }
    report = json.dumps({**said, **found.to_json()}, indent=1) + "\n"
    _store(request, {PARITY: report.encode()})
    sizes = {name: len(data) for name, data in files.items()} | {PARITY: len(report)}
    found.parity.check()
    return {
        "folder": str(request.folder),
        "files": sizes,
        **said,
        "onnxruntime": found.to_json(),
    }


def _check(content: bytes) -> None:
    """Let onnx itself check the file, shapes included.

    Raises:
        FormatError: onnx refuses it.
    """
    checker = onnx().checker
    try:
        checker.check_model(content, full_check=True)
    except Exception as failure:  # its checker and its shape inference raise different errors
        why = str(failure).strip().splitlines()[0][:200].rstrip(".")
        raise FormatError(
            "ONNX", f"the file that was made is not valid: {why}", "Report it with the model"
        ) from failure


def _store(request: Request, files: Mapping[str, bytes]) -> None:
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            replace_file(request.folder / name, content)
            if name.endswith(".sh"):
                (request.folder / name).chmod(0o755)
    except OSError as failure:
        raise unwritable(request.folder, failure) from failure
