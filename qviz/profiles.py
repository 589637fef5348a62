"""What an engine does, as rows of a table: the simulation follows the profile a recipe names.

``cuda`` and ``tensorrt`` use symmetric int8 and, of a residual add, quantize only the identity
branch, so that conv + add + ReLU fuse and the product meets the add unrounded. ``ort-cpu`` uses
uint8 with a zero point for activations and quantizes both inputs of an add.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qviz.affine import Grid
from qviz.errors import RecipeError
from qviz.graph import QUANTIZABLE_TYPES


@dataclass(frozen=True)
class Profile:
    """One engine.

    Attributes:
        name: what a recipe calls it.
        symmetric: activations have zero point 0; otherwise uint8 with a zero point.
        residual: which inputs of an add are quantized: all but a fused product, or both.
        types: op types that have int8 arithmetic there.
        bits: bit widths that it runs.
        description: one sentence for a person.
    """

    name: str
    symmetric: bool
    residual: Literal["identity", "both"]
    types: tuple[str, ...]
    bits: tuple[int, ...]
    description: str

    def activation_grid(self, bits: int, *, nonnegative: bool = False) -> Grid:
        """Integer grid of activations at ``bits``.

        Args:
            bits: 2 to 8.
            nonnegative: the tensor has no value below zero. Below 8 bits it then takes codes from
                0 on, which int8 kernels compute as they are; at 8 bits engines use signed codes.
        """
        return Grid(bits, symmetric=self.symmetric).for_values(nonnegative=nonnegative)


_BITS = (2, 3, 4, 5, 6, 7, 8)

PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile(
            "cuda",
            symmetric=True,
            residual="identity",
            types=QUANTIZABLE_TYPES,
            bits=_BITS,
            description="qviz's own kernels: symmetric int8, identity branch of an add only",
        ),
        Profile(
            "tensorrt",
            symmetric=True,
            residual="identity",
            types=QUANTIZABLE_TYPES,
            bits=_BITS,
            description="TensorRT explicit quantization: symmetric int8, identity branch only",
        ),
        Profile(
            "ort-cpu",
            symmetric=False,
            residual="both",
            types=QUANTIZABLE_TYPES,
            bits=_BITS,
            description="ONNX Runtime on CPU: uint8 with zero point, both inputs of an add",
        ),
    )
}


def profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in PROFILES:
        raise RecipeError(
            f"profile {name!r}", "there is no such profile", f"Choose one of {', '.join(PROFILES)}"
        )
    return PROFILES[name]
