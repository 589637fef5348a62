"""Compiles kernel calls for a GPU that is not there, and reads what came out.

The calls are those that the operators make: they run on tensors of the meta device, and what would
have been launched is caught.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource

from qviz.int8.cuda import launch
from qviz.int8.cuda.launch import Launch
from qviz.int8.cuda.tuning import Tile

POINTERS = {
    torch.int8: "*i8",
    torch.int32: "*i32",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
}


def caught(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[tuple[Launch, Tile]]:
    """The kernel calls that ``run`` makes on the meta device, each with its first tile."""
    calls: list[tuple[Launch, Tile]] = []
    with monkeypatch.context() as patch:
        patch.setattr(launch, "start", lambda call, tile: calls.append((call, tile)))
        run()
    return calls


def codes(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int8, device="meta")


def reals(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@dataclass(frozen=True)
class Code:
    """What a kernel became.

    Attributes:
        ptx: the assembly.
        registers: per thread.
        spilled: bytes stored and loaded because registers ran out.
        shared: bytes of shared memory.
    """

    ptx: str
    registers: int
    spilled: int
    shared: int

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.ptx))


def compiled(call: Launch, tile: Tile, capability: int) -> Code:
    """Compile a call as it would be compiled at its launch on a GPU of that capability."""
    names = call.kernel.arg_names
    constants = {**call.constants, **call.of_tile(tile.sizes), **tile.sizes}
    signature: dict[str, str] = {}
    fixed: dict[tuple[int], Any] = {}
    aligned: dict[tuple[int], Any] = {}
    for i, name in enumerate(names):
        value = constants[name] if name in constants else call.arguments[i]
        if name in constants or (isinstance(value, int) and value == 1):
            signature[name], fixed[i,] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name], aligned[i,] = POINTERS[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0:
                aligned[i,] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    source = ASTSource(call.kernel, signature, fixed, aligned)
    options = {
        "num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": False
    }  # fmt: skip
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx: str = made.asm["ptx"]
    registers, spilled = _resources(ptx, capability)
    return Code(ptx, registers, spilled, made.metadata.shared)


def _resources(ptx: str, capability: int) -> tuple[int, int]:
    """Registers per thread and spilled bytes, from the assembler that Triton brings."""
    architecture = nvidia.sm_arch_from_capability(capability)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        command = [nvidia.get_ptxas(capability).path, "-v", "--fmad=false"]
        made = subprocess.run(
            [*command, f"--gpu-name={architecture}", str(file), "-o", f"{folder}/kernel.cubin"],
            capture_output=True,
            text=True,
            check=True,
        )
    report = made.stderr + made.stdout
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", report)]
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", report)]
    return max(registers), sum(spills)
