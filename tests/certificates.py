"""A small certificate made by hand."""

from __future__ import annotations

from typing import Any

from qviz.int8.certificate import (
    CUDA,
    FLOAT,
    SIMULATED,
    BackendResult,
    Certificate,
    Change,
    Kernel,
    Latency,
    Named,
    Subject,
    Tolerance,
)
from qviz.int8.environment import Environment, Gpu, Processor
from qviz.int8.parity import CPU, ParityRow

ROW = ParityRow("conv", "conv", "codes", 4_000_000, 3_999_996, 4, 0, 1.0)
CPU_RESULT = BackendResult(
    CPU,
    "int8 on the CPU",
    "passed",
    file="model.pt2",
    value=0.9,
    simulated=0.9,
    from_float=Change(-0.0217, -0.03, -0.01),
    from_simulated=Change(0.0, 0.0, 0.0),
    same_class=1.0,
    sqnr_db=140.0,
    kernels=(Kernel("conv2d", "onednn", "exact in the self-test"),),
    rows=(ROW,),
    compared=2000,
)


def example(*backends: BackendResult, **changes: Any) -> Certificate:
    """A certificate of two references, the CPU, and a GPU that is not there."""
    shown = backends or (
        BackendResult(FLOAT, "float model", "reference", "measured at export", value=0.92),
        BackendResult(
            SIMULATED,
            "simulation",
            "reference",
            value=0.9,
            from_float=Change(-0.0217, -0.03, -0.01),
        ),
        CPU_RESULT,
        BackendResult(CUDA, "int8 on CUDA", "not run", "PyTorch finds no GPU that it can use"),
    )
    values: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "subject": Subject(
            Named("Net", "abc"),
            Named("train", "0123", 40),
            Named("val", "def", 2000),
            "4567",
            "cuda",
            {"model.pt2": "89ab" * 16},
        ),
        "samples": 2000,
        "metric": "top1",
        "reference": None,
        "recorded": {"float": 0.92, "simulated": 0.9},
        "tolerance": Tolerance(),
        "backends": shown,
        "int8_bytes": 250_000,
        "float_bytes": 1_000_000,
        "program_bytes": 300_000,
        "latency": (Latency(1, 2.0, 4.0, 9, 1),),
        "environment": Environment(
            {"python": "3.11", "torch": "2.13"},
            Processor("EPYC", "x86_64", ("avx512_vnni",), "AVX512"),
            Gpu("H100", "9.0", "570.1", "12.8"),
            1,
            "Linux",
        ),
    }
    return Certificate(**{**values, **changes})
