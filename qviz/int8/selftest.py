"""Which backend each op kind gets on this machine. (first draft: asks only for the kernels)"""

from __future__ import annotations

import os

from qviz.int8 import onednn

KINDS = (
    "conv1d", "conv2d", "conv3d", "depthwise", "conv_transpose", "linear", "matmul", "add",
)  # fmt: skip
_CHOICE: dict[str, str] = {}


def backend(kind: str) -> str:
    """Name of the backend."""
    found = _CHOICE.get(kind)
    if found is None:
        fast = onednn.available() and os.environ.get("QVIZ_INT8_BACKEND") != "exact"
        found = _CHOICE[kind] = "onednn" if fast and kind != "conv_transpose" else "exact"
    return found
