"""From pixels to what the model was trained on: size, order of channels, mean and deviation.

It has to be stated. A model fed with pixels of another scale still gives answers, only bad ones,
and its ranges are then calibrated for inputs that never come.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from qviz.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

#: What an error shows to be written; ImageNet's.
EXAMPLE = (
    'preprocessing = {resize = 256, crop = 224, channels = "rgb", '
    "mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]}"
)
Size = int | tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a pixel image, in this order.

    Attributes:
        mean: subtracted, per channel or one for all, after ``scale``.
        std: divided by, per channel or one for all.
        scale: pixels (0 to 255) are multiplied by it first.
        size: (height, width) to resize to whatever the shape was; or one number for both.
        resize: length of the shorter side to resize to, keeping the shape.
        crop: (height, width) to cut out of the middle; or one number for both.
        channels: "rgb", "bgr" or "gray".
        interpolation: "bilinear" or "bicubic", both with antialiasing as in torchvision.
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    scale: float = 1 / 255
    size: Size | None = None
    resize: int | None = None
    crop: Size | None = None
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def tensor(self, image: Image, name: str) -> Tensor:
        """A decoded image as model input, float32 ``[C, H, W]``.

        Args:
            image: of any mode.
            name: of the image, for the message.

        Raises:
            DataError: the image is smaller than the crop.
        """
        image = image.convert("L" if self.channels == "gray" else "RGB")
        image = self._cropped(self._resized(image), name)
        pixels = np.asarray(image)
        if self.channels == "gray":
            return self.normalised(torch.from_numpy(pixels.copy())[None], name)
        if self.channels == "bgr":
            pixels = pixels[:, :, ::-1]
        return self.normalised(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), name)

    def normalised(self, pixels: Tensor, name: str) -> Tensor:
        """Scale, mean and deviation alone: ``[..., C, H, W]`` of any dtype to float32.

        Computed in float64 and rounded once.

        Raises:
            DataError: there are not as many means or deviations as channels.
        """
        channels = pixels.shape[-3]
        constants = []
        for what, value in (("mean", self.mean), ("std", self.std)):
            constant = torch.tensor(value, dtype=torch.float64)
            if constant.numel() not in (1, channels):
                raise DataError(
                    name,
                    f"{what} has {constant.numel()} values for {channels} channels",
                    f"Give one per channel: {channels}, or one for all",
                )
            constants.append(constant.reshape(-1, 1, 1))
        mean, std = constants
        return ((pixels.double() * self.scale - mean) / std).float()

    def _resized(self, image: Image) -> Image:
        from PIL.Image import Resampling

        how = Resampling.BICUBIC if self.interpolation == "bicubic" else Resampling.BILINEAR
        if self.size is not None:
            height, width = _pair(self.size)
            image = image.resize((width, height), how)
        if self.resize is not None:
            short = min(image.size)
            # The longer side is cut, not rounded, as torchvision does.
            width, height = (int(self.resize * side / short) for side in image.size)
            image = image.resize((width, height), how)
        return image

    def _cropped(self, image: Image, name: str) -> Image:
        if self.crop is None:
            return image
        height, width = _pair(self.crop)
        if image.width < width or image.height < height:
            raise DataError(
                name,
                f"it is {image.width} x {image.height} after resizing, smaller than the crop of "
                f"{width} x {height}",
                "Make resize at least as large as crop",
            )
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


def read_preprocessing(source: Preprocessing | Mapping[str, object] | str | Path) -> Preprocessing:
    """Preprocessing from a TOML file, or from a mapping with the same keys.

    The keys are the attributes of ``Preprocessing``, at the top of the file or in a table called
    ``preprocessing``.

    Raises:
        DataError: the file is missing or no TOML, a key is unknown or of the wrong type, or mean
            or std is missing.
    """
    if isinstance(source, Preprocessing):
        return source
    if isinstance(source, Mapping):
        return _from_mapping(source, "preprocessing")
    path = Path(source)
    try:
        values: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        reason = "there is no such file" if not path.exists() else "it cannot be read"
        raise DataError(str(path), reason, f"Write it: {EXAMPLE}") from failure
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise DataError(
            str(path), f"it is not TOML ({failure})", f"Write it like this: {EXAMPLE}"
        ) from failure
    table = values.get("preprocessing", values)
    return _from_mapping(table if isinstance(table, Mapping) else {}, str(path))


def _from_mapping(values: Mapping[str, object], name: str) -> Preprocessing:
    known = {f.name: f for f in fields(Preprocessing)}
    for key, value in values.items():
        if key not in known:
            raise DataError(name, f"{key} is not a key", f"Choose from {', '.join(known)}")
        if not _fits(key, value):
            raise DataError(name, f"{key} = {value!r} is not valid", f"Write it like: {EXAMPLE}")
    missing = [k for k in ("mean", "std") if k not in values]
    if missing:
        raise DataError(name, f"{' and '.join(missing)} not stated", f"Write it: {EXAMPLE}")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Preprocessing(**plain)  # type: ignore[arg-type]  # checked by _fits


def _fits(key: str, value: object) -> bool:
    if key == "channels":
        return value in ("rgb", "bgr", "gray")
    if key == "interpolation":
        return value in ("bilinear", "bicubic")
    whole = key in ("size", "resize", "crop")
    items = list(value) if isinstance(value, list | tuple) else [value]
    if key in ("resize", "scale") and len(items) != 1:
        return False
    if whole and len(items) not in (1, 2):
        return False
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int if whole else int | float):
            return False
        if (whole and item < 1) or (key == "std" and item <= 0):
            return False
    return bool(items)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
