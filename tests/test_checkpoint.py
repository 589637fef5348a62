from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import torch
from int8_models import CASES, make
from safetensors.torch import load_file
from torch import Tensor
from torch.utils import _pytree as pytree

import qviz
from qviz.errors import CheckpointError, InputError, QvizError, ShapeError
from qviz.export import EXPORTERS, export
from qviz.int8 import folder as files
from qviz.int8.checkpoint import load_checkpoint, save_checkpoint
from qviz.profiles import PROFILES
from qviz.recipe import Override, Recipe

SCHEMA = json.loads(
    (Path(qviz.__file__).parent / "schemas" / "recipe.schema.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "int8"
    save_checkpoint(make("residual CNN", Override("left", int8=False)).lowered, folder)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "int8"
    shutil.copytree(written, copy)
    return copy


def message(call: Callable[[], object]) -> str:
    with pytest.raises(QvizError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_runs_like_the_lowered_model(case: str, tmp_path: Path) -> None:
    made = make(case)
    save_checkpoint(made.lowered, tmp_path / "int8")
    loaded = qviz.load_checkpoint(tmp_path / "int8")
    for size in (1, 3):
        batch = CASES[case].inputs(size)
        with torch.no_grad():
            wanted = made.lowered.module(*batch.args, **batch.kwargs)
        found = loaded(*batch.args, **batch.kwargs)
        assert pytree.tree_structure(found) == pytree.tree_structure(wanted)
        pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_outputs_are_nested_as_the_models_are(tmp_path: Path) -> None:
    made = make("keywords and trees")
    save_checkpoint(made.lowered, tmp_path / "int8")
    batch = made.batch
    found = load_checkpoint(tmp_path / "int8")(*batch.args, **batch.kwargs)
    wanted = made.model(*batch.args, **batch.kwargs)
    assert pytree.tree_structure(found) == pytree.tree_structure(wanted)
    assert found["parts"][1].dtype == torch.int64


def test_weights_are_integers_with_a_scale_per_channel(written: Path) -> None:
    tensors = load_file(written / "model.safetensors")
    assert tensors["point.weight"].dtype == torch.int8
    assert tensors["point.weight_scale"].shape == (16,)
    assert tensors["left.weight"].dtype == torch.float32  # skipped: untouched
    assert torch.equal(tensors["left.weight"], make("residual CNN").model.left.weight)  # type: ignore[union-attr, arg-type]


def test_a_rounded_weight_of_a_float_op_is_stored_as_integers(tmp_path: Path) -> None:
    made = make("residual CNN", Override("head/input", int8=False))
    save_checkpoint(made.lowered, tmp_path / "int8")
    tensors = load_file(tmp_path / "int8" / "model.safetensors")
    assert tensors["head.weight"].dtype == torch.int8
    real = tensors["head.weight"].float() * tensors["head.weight_scale"][:, None]
    assert torch.equal(real, made.lowered.module.get_buffer("head.weight"))


def test_the_recipe_travels_with_it(written: Path) -> None:
    assert (
        load_checkpoint(written).recipe == make("residual CNN", Override("left", int8=False)).recipe
    )


def test_the_manifest_says_what_became_of_every_op(written: Path) -> None:
    manifest = load_checkpoint(written).manifest
    kernels = {row["op"]: row["kernel"] for row in manifest["ops"]}
    assert kernels["left"] == "float"
    assert kernels["stem"] == "int8 conv"
    assert set(manifest["calls"].values()) <= set(make("residual CNN").simulator.graph.tensors)


def test_the_program_holds_no_paths_of_the_machine_that_wrote_it(written: Path) -> None:
    content = (written / "model.pt2").read_bytes()
    assert str(Path(__file__).parent).encode() not in content
    assert str(Path(qviz.__file__).parent).encode() not in content


def test_writing_again_replaces_it_and_leaves_other_files_alone(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    save_checkpoint(make("transformer block").lowered, folder)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert load_checkpoint(folder).manifest["inputs"][0]["shape"] == [6, 32]
    assert sorted(p.name for p in folder.parent.iterdir()) == ["int8"]  # no temporary folder


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.name == "model.pt2":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(files, "replace_file", full)
    lowered = make("residual CNN").lowered
    target = tmp_path / "int8"
    assert message(lambda: save_checkpoint(lowered, target)) == (
        f"{target}: it cannot be written (no space left on device). "
        "Free some space or name another folder."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_an_older_checkpoint_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace_file", full)
    with pytest.raises(CheckpointError):
        save_checkpoint(make("transformer block").lowered, folder)
    assert load_checkpoint(folder).manifest["inputs"][0]["shape"] == [3, 16, 16]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    target = tmp_path / "int8"
    target.write_text("", encoding="utf-8")
    assert message(lambda: save_checkpoint(make("residual CNN").lowered, target)) == (
        f"{target}: it is a file, not a folder. Name a folder."
    )


def test_a_missing_folder(tmp_path: Path) -> None:
    assert message(lambda: load_checkpoint(tmp_path / "none")) == (
        f"{tmp_path / 'none'}: there is no such folder. Name a folder that qviz export wrote."
    )


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    assert message(lambda: load_checkpoint(tmp_path)) == (
        f"{tmp_path}: it is no checkpoint, or writing it was interrupted: checkpoint.json is "
        "missing. Name a folder that qviz export wrote, or export again."
    )


def test_a_truncated_program(folder: Path) -> None:
    path = folder / "model.pt2"
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    assert message(lambda: load_checkpoint(folder)) == (
        f"{path}: it is damaged: 1000 bytes instead of {len(content)}. "
        "Export the checkpoint again, or copy the whole folder again."
    )


@pytest.mark.parametrize("name", ["model.pt2", "model.safetensors", "recipe.json"])
def test_one_changed_byte_is_found(folder: Path, name: str) -> None:
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert message(lambda: load_checkpoint(folder)) == (
        f"{path}: it is damaged: its sha256 is not the one in checkpoint.json. "
        "Export the checkpoint again, or copy the whole folder again."
    )


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert message(lambda: load_checkpoint(folder)) == (
        f"{folder / 'model.safetensors'}: it is missing from the checkpoint. "
        "Export the checkpoint again, or copy the whole folder again."
    )


def test_a_program_that_is_none_is_refused_by_name(folder: Path) -> None:
    content = b"not an archive"
    manifest = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    files.write_folder(
        folder,
        {n: (folder / n).read_bytes() for n in manifest["files"]} | {"model.pt2": content},
        manifest,
    )
    assert message(lambda: load_checkpoint(folder)) == (
        f"{folder / 'model.pt2'}: the file is damaged, or not an archive. "
        "Export the checkpoint again, or copy the whole folder again."
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "{",
            "it is damaged: not JSON. Export the checkpoint again, or copy the whole folder again.",
        ),
        ("[]", 'it is not ours: "format" is not "qviz-int8". Name a qviz checkpoint.'),
        (
            '{"format": "qviz-int8", "version": 9}',
            "version 9 is none of 1 to 2, which this qviz reads. Install the qviz that wrote it, "
            "or export again.",
        ),
        (
            '{"format": "qviz-int8", "version": 1, "files": {}, "inputs": [], "float_bytes": 1}',
            'it is damaged: "calls" is missing. Export the checkpoint again, or copy the whole '
            "folder again.",
        ),
    ],
    ids=["not JSON", "another format", "a later version", "a part missing"],
)
def test_a_bad_manifest(folder: Path, text: str, reason: str) -> None:
    (folder / "checkpoint.json").write_text(text, encoding="utf-8")
    assert message(lambda: load_checkpoint(folder)) == f"{folder / 'checkpoint.json'}: {reason}"


def test_a_wrong_input_shape_is_named(written: Path) -> None:
    loaded = load_checkpoint(written)
    with pytest.raises(ShapeError) as caught:
        loaded(torch.zeros(2, 1, 16, 16))
    assert str(caught.value) == (
        "input x: samples are float32 (1, 16, 16), the model takes float32 (3, 16, 16). "
        "Give data as the model was trained on, preprocessing included."
    )


def test_inputs_may_be_given_by_position_or_by_name(tmp_path: Path) -> None:
    made = make("keywords and trees")
    save_checkpoint(made.lowered, tmp_path / "int8")
    loaded = load_checkpoint(tmp_path / "int8")
    ids, scale = made.batch.args[0], made.batch.kwargs["scale"]
    wanted = loaded(ids, scale=scale)["mean"]
    assert torch.equal(loaded(ids, scale)["mean"], wanted)
    assert torch.equal(loaded(scale=scale, ids=ids)["mean"], wanted)
    assert message(lambda: loaded(ids)) == (
        "input scale: the model needs it, it was not given. Give it."
    )
    assert message(lambda: loaded(ids, scale=scale, mask=ids)) == (
        "input mask: the model has no such input. Give ids, scale."
    )


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    recipe = Recipe()
    with pytest.raises(InputError) as caught:
        export(None, recipe, tmp_path, formats=["tflite"])  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"format 'tflite': there is no such format. Choose among {', '.join(EXPORTERS)}, or all."
    )


def test_every_recipe_fits_the_published_schema() -> None:
    made = make("residual CNN", Override("left", int8=False), Override("kind:weight", bits=4))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(made.recipe.to_json()), SCHEMA)
    jsonschema.validate(json.loads(Recipe().to_json()), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"version": 2}, {"weight_bits": 9}, {"profile": "tpu"}, {"more": 1}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_no_recipe_does_not_fit_the_schema(change: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(Recipe().to_json()), **change}, SCHEMA)


def test_the_schema_knows_every_field_and_profile() -> None:
    assert set(SCHEMA["properties"]["profile"]["enum"]) == set(PROFILES)
    fields = {f.name for f in dataclasses.fields(Recipe)}
    assert set(SCHEMA["properties"]) == fields | {"format", "version"}


def test_a_checkpoint_follows_a_device_move_of_its_module(written: Path) -> None:
    loaded = load_checkpoint(written).to("cpu")
    out: Tensor = loaded(torch.zeros(1, 3, 16, 16))
    assert out.shape == (1, 10)
