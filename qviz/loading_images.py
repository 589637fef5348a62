"""A folder of images as data: one sub-folder per class, or images alone without labels.

Classes are the sub-folders in sorted order, counted from 0. Images are decoded when they are
needed; how they become model input is stated in ``preprocessing.toml`` in the folder.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from qviz.errors import DataError, MissingExtraError
from qviz.preprocessing import EXAMPLE, Preprocessing, read_preprocessing

#: Endings of image files, compared in lower case; other files are passed over.
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
#: Name of the file in the folder that states the preprocessing.
PREPROCESSING = "preprocessing.toml"


class ImageFolder(Dataset[tuple[Tensor, int | None]]):
    """Images and their classes; ``[i]`` decodes.

    Attributes:
        files: all images with the index of their class, None without classes.
        classes: names of the classes.
        preprocessing: what is done to the pixels.
    """

    def __init__(
        self,
        files: list[tuple[Path, int | None]],
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
    ) -> None:
        self.files = files
        self.classes = classes
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int | None]:
        from PIL import Image

        path, label = self.files[index]
        try:
            with Image.open(path) as image:
                image.load()
                # A decompression bomb is an exception too: pillow refuses it by itself.
                pixels = self.preprocessing.tensor(image, str(path))
        except DataError:
            raise
        except Exception as failure:
            raise DataError(
                str(path), "the image cannot be read", "Repair it, or take it out of the folder"
            ) from failure
        return pixels, label


def read_image_folder(folder: Path, preprocessing: Preprocessing | None = None) -> ImageFolder:
    """The images in a folder.

    Args:
        folder: holds one folder of images per class, or images.
        preprocessing: None to read it from ``preprocessing.toml`` in the folder.

    Raises:
        DataError: no images, an empty class, images beside class folders, or no preprocessing.
        MissingExtraError: pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError(
            str(folder),
            "reading images needs pillow, which is not installed",
            'Install it with pip install "qviz[images]"',
        )
    files, classes = _list(folder)
    if preprocessing is None:
        stated = folder / PREPROCESSING
        if not stated.is_file():
            raise DataError(
                str(folder),
                "how its images become model input is not stated",
                f"Write what the model was trained with into {stated}, for example {EXAMPLE}",
            )
        preprocessing = read_preprocessing(stated)
    return ImageFolder(files, classes, preprocessing)


def _list(folder: Path) -> tuple[list[tuple[Path, int | None]], tuple[str, ...]]:
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    classes = [p for p in entries if p.is_dir()]
    loose: list[tuple[Path, int | None]] = [(p, None) for p in entries if _is_image(p)]
    if not classes and not loose:
        raise DataError(
            str(folder),
            "there are no images in it",
            f"Put one folder of images per class into it ({', '.join(IMAGES[:3])}, ...)",
        )
    if classes and loose:
        raise DataError(
            str(folder),
            f"{loose[0][0].name} lies beside the class folders, so its class is unknown",
            "Move it into the folder of its class",
        )
    files = list(loose)
    for label, path in enumerate(classes):
        inside: list[tuple[Path, int | None]] = [
            (p, label) for p in sorted(path.iterdir()) if _is_image(p)
        ]
        if not inside:
            raise DataError(
                str(path),
                "there are no images of this class",
                "Add some; without its folder, the classes after it would get other numbers",
            )
        files += inside
    return files, tuple(p.name for p in classes)


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGES and not path.name.startswith(".")
