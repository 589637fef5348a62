"""The machine and the versions that a measurement is true for."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

#: Packages that compute what a certificate compares.
PACKAGES = ("qviz", "torch", "triton", "onnxruntime", "numpy")
#: Instruction sets that decide which int8 kernels run, and whether they are exact.
RELEVANT = (
    "avx2",
    "avx_vnni",
    "avx512_f",
    "avx512_vnni",
    "amx_int8",
    "asimd",
    "sve",
    "i8mm",
)


@dataclass(frozen=True)
class Processor:
    """The CPU.

    Attributes:
        name: its model.
        architecture: ``x86_64``, ``aarch64`` ...
        instructions: those that matter for int8, of the ones it has.
        capability: what PyTorch's own kernels use: ``AVX512`` ...
    """

    name: str
    architecture: str
    instructions: tuple[str, ...]
    capability: str


@dataclass(frozen=True)
class Gpu:
    """The GPU: its name, compute capability (``9.0``), the driver's version, and CUDA's."""

    name: str
    capability: str
    driver: str
    cuda: str


@dataclass(frozen=True)
class Environment:
    """Machine and versions.

    Attributes:
        versions: package -> version, of what is installed; ``python`` among them.
        processor: the CPU.
        gpu: the one that was used; None if none was.
        threads: that PyTorch uses on the CPU.
        system: operating system.
    """

    versions: Mapping[str, str]
    processor: Processor
    gpu: Gpu | None
    threads: int
    system: str


def environment(*, gpu: bool = False) -> Environment:
    """This machine; with its GPU if that is used."""
    return Environment(
        versions=_versions(),
        processor=_processor(),
        gpu=_gpu() if gpu else None,
        threads=torch.get_num_threads(),
        system=platform.system(),
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> Processor:
    asked = getattr(torch.cpu, "get_capabilities", None)  # an older PyTorch has it not
    has: dict[str, object] = {} if asked is None else asked()
    return Processor(
        name=str(has.get("cpu_name") or platform.processor() or "unknown"),
        architecture=str(has.get("architecture") or platform.machine()),
        instructions=tuple(name for name in RELEVANT if has.get(name) is True),
        capability=torch.backends.cpu.get_cpu_capability(),
    )


def _gpu() -> Gpu:
    major, minor = torch.cuda.get_device_capability()
    return Gpu(torch.cuda.get_device_name(), f"{major}.{minor}", _driver(), str(torch.version.cuda))


def _driver(path: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Version of the NVIDIA kernel module, the third word before "Release" or a date."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    words = (word for word in text.split() if word[:1].isdigit() and "." in word)
    return next(words, "unknown")
