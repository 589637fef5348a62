"""Datasheet rows of GPUs, for roofline estimates. Peaks, not what a kernel reaches.

All rates are dense (no structured sparsity). fp16 is with float32 accumulation, which is what
PyTorch and TensorRT use for fp16 layers by default; GeForce cards run that at half the rate of
fp16 accumulation. 1 multiply-accumulate is 2 operations.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from qviz.errors import InputError


@dataclass(frozen=True)
class Gpu:
    """One GPU by its datasheet.

    Attributes:
        name: what a user types.
        int8_tops: 10^12 int8 operations per second, dense.
        fp16_tflops: 10^12 fp16 operations per second, dense, float32 accumulation.
        memory_gbs: 10^9 bytes per second.
        source: where the numbers are from, and what is special.
    """

    name: str
    int8_tops: float
    fp16_tflops: float
    memory_gbs: float
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 624, 312, 1555, "NVIDIA A100 datasheet, SXM and PCIe 40 GB"),
        Gpu("A100-80GB", 624, 312, 2039, "NVIDIA A100 datasheet, SXM 80 GB (PCIe: 1935 GB/s)"),
        Gpu("A10", 250, 125, 600, "NVIDIA A10 datasheet"),
        Gpu("L4", 242, 121, 300, "NVIDIA L4 datasheet: half of the sparse figures"),
        Gpu("L40S", 733, 362, 864, "NVIDIA L40S datasheet"),
        Gpu("T4", 130, 65, 320, "NVIDIA T4 datasheet; Turing: no kernels of ours for it"),
        Gpu("H100-SXM", 1979, 989, 3350, "NVIDIA H100 datasheet: half of the sparse figures"),
        Gpu("H100-PCIe", 1513, 756, 2000, "NVIDIA H100 datasheet: half of the sparse figures"),
        Gpu("H200", 1979, 989, 4800, "NVIDIA H200 SXM datasheet: half of the sparse figures"),
        Gpu("RTX-3090", 284, 71, 936, "NVIDIA GA102 whitepaper"),
        Gpu("RTX-4090", 661, 165, 1008, "NVIDIA Ada whitepaper"),
        Gpu("B200", 4500, 2250, 7700, "NVIDIA HGX B200 datasheet: half of the sparse figures"),
        Gpu("AGX-Orin-64GB", 85, 42.5, 205, "Jetson AGX Orin brief: GPU only, half of sparse"),
    )
}


def gpu(name: str) -> Gpu:
    """A GPU by its name; case, blanks and dashes do not matter.

    Raises:
        InputError: it is not in the table.
    """
    plain = {_plain(known): known for known in GPUS}
    if _plain(name) in plain:
        return GPUS[plain[_plain(name)]]
    wanted = _plain(name)
    near = [known for form, known in plain.items() if wanted and wanted in form]
    near = near or [plain[form] for form in difflib.get_close_matches(wanted, plain, 3, 0.6)]
    raise InputError(
        f"--gpu {name}",
        "there is no datasheet row of that name",
        f"Did you mean {' or '.join(near)}" if near else f"Choose among {', '.join(GPUS)}",
    )


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
