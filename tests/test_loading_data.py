"""Data from outside: folders of images, arrays in files, factories, and the samples' slices."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qviz.errors import DataError, MissingExtraError, QvizError
from qviz.loading import Preprocessing, load_data, read_preprocessing
from qviz.preprocessing import EXAMPLE
from qviz.samples import samples

Image = pytest.importorskip("PIL.Image")

PLAIN = Preprocessing(mean=0.0, std=1.0, scale=1.0)
WHAT = "Give a folder of images, a .npz or .safetensors file, file.py:factory or sample:NAME."
AGAIN = "Save, copy or download it again."


def message(
    spec: object, preprocessing: Preprocessing | dict[str, object] | str | Path | None = None
) -> str:
    with pytest.raises(QvizError) as caught:
        list(load_data(spec, "calibration", preprocessing).batches(4))
    assert isinstance(caught.value, DataError | MissingExtraError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everything(
    spec: str | Path,
    preprocessing: Preprocessing | str | Path | None = None,
    role: Literal["calibration", "evaluation"] = "calibration",
) -> tuple[Tensor, Tensor | None]:
    (batch,) = load_data(spec, role, preprocessing).batches(10_000)
    (x,) = batch.args
    return x, batch.targets


# ---- folders of images ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 2 x 2 images, whose red values count from 0."""
    path = tmp_path / "images"
    for label, name in enumerate(("cat", "dog")):
        (path / name).mkdir(parents=True)
        for i in range(2):
            pixels = np.zeros((2, 2, 3), np.uint8)
            pixels[..., 0], pixels[0, 0] = 2 * label + i, (10, 20, 30)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    (path / "dog" / "notes.txt").write_text("not an image", encoding="utf-8")
    (path / ".hidden").mkdir()
    return path


def test_sub_folders_are_classes_in_sorted_order(folder: Path) -> None:
    x, y = everything(folder, PLAIN)
    assert x.shape == (4, 3, 2, 2)
    assert x.dtype == torch.float32
    assert x[:, 0, 1, 1].tolist() == [0, 1, 2, 3]
    assert x[0, :, 0, 0].tolist() == [10, 20, 30]
    assert y is not None
    assert y.tolist() == [0, 0, 1, 1]


def test_images_alone_have_no_labels(folder: Path) -> None:
    x, y = everything(folder / "cat", PLAIN)
    assert len(x) == 2
    assert y is None


def test_channels_can_be_turned_round_or_left_out(folder: Path) -> None:
    x, _ = everything(folder, Preprocessing(0.0, 1.0, 1.0, channels="bgr"))
    assert x[0, :, 0, 0].tolist() == [30, 20, 10]
    x, _ = everything(folder, Preprocessing(0.0, 1.0, 1.0, channels="gray"))
    assert x.shape == (4, 1, 2, 2)


def test_mean_and_deviation_apply_per_channel_after_the_scale(folder: Path) -> None:
    x, _ = everything(folder, Preprocessing((1.0, 2.0, 3.0), (1.0, 2.0, 4.0), 0.1))
    assert x[0, :, 0, 0].tolist() == [0.0, 0.0, 0.0]
    assert x[0, :, 1, 1].tolist() == [-1.0, -1.0, -0.75]


def test_resize_keeps_the_shape_and_crop_takes_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40), np.uint8)
    pixels[:, 20:] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    x, _ = everything(tmp_path, Preprocessing(0.0, 1.0, 1.0, resize=10, channels="gray"))
    assert x.shape == (1, 1, 10, 20)
    x, _ = everything(tmp_path, Preprocessing(0.0, 1.0, 1.0, crop=(4, 6), channels="gray"))
    assert x[0, 0, 0].tolist() == [0, 0, 0, 200, 200, 200]
    for how in ("bilinear", "bicubic"):
        stated = read_preprocessing({"mean": 0, "std": 1, "size": [8, 4], "interpolation": how})
        assert everything(tmp_path, stated)[0].shape == (1, 3, 8, 4)


def test_preprocessing_stands_in_a_file_in_the_folder(folder: Path) -> None:
    (folder / "preprocessing.toml").write_text("mean = 10\nstd = 2\nscale = 1\n", encoding="utf-8")
    x, _ = everything(folder)
    assert x[0, :, 0, 0].tolist() == [0, 5, 10]


def test_the_example_that_an_error_shows_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(EXAMPLE, encoding="utf-8")
    assert read_preprocessing(path) == Preprocessing(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=256, crop=224
    )


def test_folders_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path) -> None:
    assert message(folder) == (
        f"{folder}: how its images become model input is not stated. Write what the model was "
        f"trained with into {folder}/preprocessing.toml, for example {EXAMPLE}."
    )
    (folder / "eel").mkdir()
    assert message(folder, PLAIN) == (
        f"{folder}/eel: there are no images of this class. "
        "Add some; without its folder, the classes after it would get other numbers."
    )
    (folder / "eel").rmdir()
    Image.new("RGB", (2, 3)).save(folder / "loose.jpg")
    assert message(folder, PLAIN) == (
        f"{folder}: loose.jpg lies beside the class folders, so its class is unknown. "
        "Move it into the folder of its class."
    )
    (folder / "loose.jpg").rename(folder / "cat" / "loose.jpg")
    assert message(folder, PLAIN) == (
        f"{folder}: input 0 of sample 2 has shape (3, 3, 2), of sample 0 (3, 2, 2). "
        "Resize, crop or pad all samples to one shape."
    )
    (folder / "cat" / "1.png").write_bytes(b"\x89PNG broken")
    assert message(folder, PLAIN) == (
        f"{folder}/cat/1.png: the image cannot be read. Repair it, or take it out of the folder."
    )
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty", PLAIN) == (
        f"{tmp_path}/empty: there are no images in it. "
        "Put one folder of images per class into it (.jpg, .jpeg, .png, ...)."
    )


def test_an_image_smaller_than_the_crop_is_refused(folder: Path) -> None:
    assert message(folder, Preprocessing(0.0, 1.0, crop=3)) == (
        f"{folder}/cat/0.png: it is 2 x 2 after resizing, smaller than the crop of 3 x 3. "
        "Make resize at least as large as crop."
    )


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "PIL" else real(name)
    )
    assert message(folder, PLAIN) == (
        f"{folder}: reading images needs pillow, which is not installed. "
        'Install it with pip install "qviz[images]".'
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("mean = 0", f"std not stated. Write it: {EXAMPLE}."),
        ("", f"mean and std not stated. Write it: {EXAMPLE}."),
        ("mean = 0\nstd = 0", f"std = 0 is not valid. Write it like: {EXAMPLE}."),
        ("mean = true\nstd = 1", f"mean = True is not valid. Write it like: {EXAMPLE}."),
        ("crop = [1, 2, 3]", f"crop = [1, 2, 3] is not valid. Write it like: {EXAMPLE}."),
        ("resize = 0", f"resize = 0 is not valid. Write it like: {EXAMPLE}."),
        ("scale = [1, 2]", f"scale = [1, 2] is not valid. Write it like: {EXAMPLE}."),
        ('channels = "hsv"', f"channels = 'hsv' is not valid. Write it like: {EXAMPLE}."),
        (
            "sise = 3",
            "sise is not a key. "
            "Choose from mean, std, scale, size, resize, crop, channels, interpolation.",
        ),
        (
            "mean = ",
            f"it is not TOML (Invalid value (at end of document)). Write it like this: {EXAMPLE}.",
        ),
    ],
)
def test_preprocessing_that_is_not_valid_is_refused(
    tmp_path: Path, content: str, text: str
) -> None:
    path = tmp_path / "p.toml"
    path.write_text(content, encoding="utf-8")
    assert message(tmp_path, path) == f"{path}: {text}"


def test_a_missing_preprocessing_file_is_named(tmp_path: Path) -> None:
    assert message(tmp_path, tmp_path / "gone.toml") == (
        f"{tmp_path}/gone.toml: there is no such file. Write it: {EXAMPLE}."
    )


# ---- arrays in files ----

X, Y = torch.arange(24.0).reshape(4, 3, 2), torch.arange(4)


@pytest.mark.parametrize("names", [("images", "labels"), ("inputs", "targets"), ("x", "y")])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_arrays_are_found_by_name(tmp_path: Path, suffix: str, names: tuple[str, str]) -> None:
    path, arrays = tmp_path / f"data{suffix}", dict(zip(names, (X, Y), strict=True))
    if suffix == ".npz":
        np.savez_compressed(path, **{k: v.numpy() for k, v in arrays.items()})  # type: ignore[arg-type]
    elif suffix == ".pt":
        torch.save(arrays, path)
    else:
        save_file(arrays, path)
    x, y = everything(path)
    assert torch.equal(x, X)
    assert y is not None
    assert torch.equal(y, Y)


def test_a_checkpoint_may_hold_a_pair_or_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "data.pt"
    torch.save((X, Y), path)
    assert load_data(path, "calibration").labelled
    torch.save(X, path)
    assert not load_data(path, "calibration").labelled


def test_arrays_of_other_names_are_keywords(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input_ids=X.numpy(), attention_mask=X.numpy(), labels=Y.numpy())
    (batch,) = load_data(path, "calibration").batches(4)
    assert list(batch.kwargs) == ["input_ids", "attention_mask"]
    assert batch.targets is not None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 4, 4), (5, 1, 4, 4)), ((5, 4, 4, 3), (5, 3, 4, 4)), ((5, 3, 4, 4), (5, 3, 4, 4))],
)
def test_images_in_an_array_get_their_channels_first(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=np.full(shape, 255, np.uint8))
    x, _ = everything(path, Preprocessing(mean=0.5, std=0.5))
    assert x.shape == expected
    assert (x == 1.0).all()


def test_without_preprocessing_arrays_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, images=np.full((5, 4, 4), 255, np.uint8))
    assert everything(path)[0].dtype == torch.uint8


def test_array_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    assert message(path) == f"{path}: there is no such file. Check the path."
    path.touch()
    assert message(path) == f"{path}: the file is empty. Save or download it again."
    np.savez(path, x=np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:-300])
    assert message(path) == f"{path}: the file is damaged or cut short. {AGAIN}"
    np.savez(path, x=np.arange(1000.0))
    content = bytearray(path.read_bytes())
    content[500] ^= 255  # the checksum no longer fits
    path.write_bytes(content)
    assert message(path) == f"{path}: the file is damaged or cut short. {AGAIN}"
    np.savez(path, x=np.array([None, "code"]))
    assert message(path) == (
        f"{path}: x is an array of Python objects, and loading those would run code. "
        "Save numbers: all samples of one shape in one array."
    )
    np.savez(path, x=np.array(["a", "b"]))
    assert message(path) == f"{path}: x is of dtype <U1, not numbers. Save numbers only."
    np.savez(path, X.numpy(), Y.numpy())
    assert message(path) == (
        f"{path}: its arrays have no names (arr_0, arr_1). "
        "Name them: np.savez(path, inputs=..., labels=...)."
    )
    np.savez(path, labels=Y.numpy())
    assert message(path) == (
        f"{path}: it has no inputs (it holds labels). Name them images or inputs or x."
    )
    np.savez(path, x=X.numpy(), y=Y.numpy(), labels=Y.numpy())
    assert message(path) == f"{path}: y and labels are both targets. Keep one of them."
    np.savez(path, x=X.numpy(), y=Y.numpy()[:3])
    assert message(path).startswith(f"{path}: 3 targets for 4 samples. ")
    np.savez(path, x=X.numpy()[:, 0])
    assert message(path, PLAIN) == (
        f"{path}: preprocessing applies to one array of images, (n, H, W) or (n, H, W, C). "
        "Leave it out, and save the arrays as the model expects them."
    )
    np.savez(path, x=X.numpy()[:, None])
    assert message(path, Preprocessing((0.0, 0.0), 1.0)) == (
        f"{path}: mean has 2 values for 1 channels. Give one per channel: 1, or one for all."
    )


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qviz.loading_arrays.UNPACKED_BYTES", 10)
    path = tmp_path / "data.npz"
    np.savez(path, x=X.numpy())
    assert message(path) == f"{path}: it unpacks to 0 GiB. Give fewer samples."


def test_checkpoints_that_hold_no_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.pt"
    torch.save(3, path)
    assert message(path) == (
        f"{path}: it holds a int, not arrays. "
        "Save a dict of tensors: inputs, and labels if there are any."
    )
    torch.save({"x": "text"}, path)
    assert message(path) == f"{path}: x is a str, not an array. Save arrays only."


# ---- factories and samples ----

CODE = """
import torch

def samples():
    return [(torch.full((2,), float(i)), i) for i in range(3)]

def batches():
    import neighbour_of_data_for_this_test
    yield torch.ones(2, 2), torch.tensor([0, 1])
    yield torch.ones(1, 2), torch.tensor([2])

def fails_late():
    yield torch.ones(2, 2)
    raise OSError("disk gone")

def nothing(): ...

def empty():
    return []

data = samples()
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "neighbour_of_data_for_this_test.py").touch()
    path = tmp_path / "factories.py"
    path.write_text(CODE, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["samples", "batches", "data"])
def test_a_factory_gives_samples_or_batches(code: str, name: str) -> None:
    data = load_data(f"{code}:{name}", "evaluation")
    assert data.count == 3
    assert data.name == f"{code}:{name}"
    (batch,) = data.batches(8)
    assert batch.targets is not None
    assert batch.targets.tolist() == [0, 1, 2]


def test_factories_that_give_no_data_are_refused(code: str) -> None:
    for name, text in (
        (
            "nothing",
            "an object of type NoneType is not a source of samples. "
            "Give a DataLoader, a Dataset, or a list of (inputs, target).",
        ),
        ("empty", "it has no samples. Give at least one."),
        ("fails_late", "reading item 1 raised OSError: disk gone. Correct the data source."),
        (
            "gone",
            "factories.py has no gone; it has samples, batches, fails_late, nothing, empty. "
            "Name one that is there.",
        ),
    ):
        assert message(f"{code}:{name}") == f"{code}:{name}: {text}"
    assert message(f"{code}:samples", PLAIN) == (
        f"{code}:samples: preprocessing applies to images in folders and files, not to a factory's "
        "samples. Let the factory give what the model expects, and leave out preprocessing.toml."
    )


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert message(gone) == f"{gone}: there is no such file or folder. {WHAT}"
    text = tmp_path / "data.csv"
    text.touch()
    assert message(text) == f"{text}: .csv is not a format for data. {WHAT}"
    assert message(3) == (
        "calibration data: an object of type int is not a source of samples. "
        "Give a DataLoader, a Dataset, or a list of (inputs, target)."
    )


def test_data_from_python_are_named_by_their_role() -> None:
    assert load_data((X, Y), "evaluation").name == "evaluation data"


@pytest.mark.parametrize("name", [s.name for s in samples()])
def test_a_sample_model_has_a_slice_for_each_role(name: str) -> None:
    calibration = load_data(f"sample:{name}", "calibration")
    evaluation = load_data(f"sample:{name}", "evaluation")
    assert calibration.name == f"sample:{name} (calibration)"
    assert (calibration.count, evaluation.count) == (512, 2000)
    first = next(evaluation.batches(8))
    assert first.args[0].shape == (8, 1, 28, 28)
    assert first.args[0].dtype == torch.float32
    assert first.targets is not None
