"""Library architectures for the benchmarks: timm and transformers models with random weights.

torchvision's wheels are built against one build of torch; beside another its C++ operators do not
register and importing it fails. Declaring their names first lets its pure Python parts, which is
all timm needs, be imported. Random weights do: neither cost nor coverage depends on them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from qviz.errors import MissingExtraError

_OPERATORS = (
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

#: The three that speed is reported on.
TIMED = {
    "MobileNetV3-Large": "mobilenetv3_large_100",
    "ResNet-50": "resnet50",
    "ViT-S/16": "vit_small_patch16_224",
}


@cache  # the library's operators last as long as the object does
def _torchvision_operators() -> torch.library.Library | None:
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _OPERATORS:
        library.define(schema)
    return library


def timm() -> Any:  # noqa: ANN401 - a module without types
    """The timm package.

    Raises:
        MissingExtraError: timm or torchvision is not installed.
    """
    _torchvision_operators()
    try:
        import timm as package
    except ImportError as error:
        raise MissingExtraError(
            "benchmark",
            "timm is not installed",
            "Run pip install --no-deps timm==1.0.31 torchvision==0.28.0",
        ) from error
    return package


def architecture(name: str, seed: int = 0, warm: int = 16) -> nn.Module:
    """A timm model with random weights, in evaluation mode.

    Args:
        name: as ``timm.create_model`` takes it.
        seed: of the weights.
        warm: images of the batches that settle its batch norm statistics.
    """
    torch.manual_seed(seed)
    model: nn.Module = timm().create_model(name)
    _randomize_head(model)
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        model.train()
        with torch.no_grad():
            for turn in range(2):
                model(images(warm, seed=seed + turn, size=image_size(model)))
    return model.eval()


def image_size(model: nn.Module) -> int:
    """Side of the square images that a timm model is made for."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    return int(config.get("input_size", (3, 224, 224))[1])


def _randomize_head(model: nn.Module) -> None:
    """Some heads start at zero or near it; then every output is the same and proves nothing."""
    for name, parameter in model.named_parameters():
        if name.endswith(("head.weight", "fc.weight", "classifier.weight")) and parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def images(count: int, seed: int = 0, size: int = 224) -> Tensor:
    """Random images with the spectrum of photographs, ``[count, 3, size, size]``.

    White noise would average out in the first layers and leave later ones nothing to see.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, size, size)
    side = 7
    while side <= size:
        noise = torch.randn(count, 3, side, side, generator=generator)
        total += nn.functional.interpolate(noise, (size, size), mode="bilinear") / side**0.5
        side *= 2
    return (total - total.mean((1, 2, 3), keepdim=True)) / total.std((1, 2, 3), keepdim=True)
