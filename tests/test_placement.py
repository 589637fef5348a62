"""A checkpoint somewhere else: another device, another float type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from int8_models import make
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qviz.data import Batch
from qviz.errors import QvizError
from qviz.int8 import moving, placement
from qviz.int8.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qviz.int8.parity import parity
from qviz.rewrite import aten

HALVES = (torch.float16, torch.bfloat16)
SAVED = ("residual CNN", "transformer block", "1d", "keywords and trees")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("written")
    for case in SAVED:
        save_checkpoint(make(case).lowered, root / case)
    return {case: root / case for case in SAVED}


def outputs(loaded: Checkpoint, batch: Batch) -> list[Tensor]:
    return pytree.tree_leaves(loaded(*batch.args, **batch.kwargs))


def types_of(module: fx.GraphModule) -> dict[str, torch.dtype]:
    return {name: value.dtype for name, value in module.state_dict().items()}


def message(call: Any) -> str:  # noqa: ANN401 - anything callable
    with pytest.raises(QvizError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", SAVED)
def test_a_checkpoint_in_half_precision_is_near_the_one_in_float(
    case: str, dtype: torch.dtype, folders: dict[str, Path]
) -> None:
    batch = make(case).batch
    loaded = load_checkpoint(folders[case])
    wanted = outputs(loaded, batch)
    assert loaded.to(dtype) is loaded
    for found, value in zip(outputs(loaded, batch), wanted, strict=True):
        assert found.dtype is value.dtype  # float32 where it was
        assert (found.double() - value.double()).norm() <= 0.02 * value.double().norm()


def test_what_is_integer_throughout_does_not_change(folders: dict[str, Path]) -> None:
    batch = make("residual CNN").batch
    loaded = load_checkpoint(folders["residual CNN"])
    wanted = outputs(loaded, batch)
    assert all(map(torch.equal, outputs(loaded.to(torch.float16), batch), wanted))


def test_scales_and_biases_stay_float32_and_other_floats_do_not(folders: dict[str, Path]) -> None:
    loaded = load_checkpoint(folders["transformer block"]).to(torch.bfloat16)
    types = types_of(loaded.program)
    assert types["qkv.weight"] is torch.int8
    assert types["qkv.weight_scale"] is torch.float32
    assert types["qkv.bias"] is torch.float32
    assert types["first.weight"] is torch.bfloat16


def test_back_in_float32_the_program_is_the_one_that_was_saved(folders: dict[str, Path]) -> None:
    loaded = load_checkpoint(folders["1d"])
    wanted = [str(node) for node in loaded.program.graph.nodes]
    loaded.half().float()
    assert [str(node) for node in loaded.program.graph.nodes] == wanted
    assert loaded.place == placement.HOME


def test_integer_calls_keep_their_names(folders: dict[str, Path]) -> None:
    loaded = load_checkpoint(folders["transformer block"]).to(torch.float16)
    assert set(loaded.manifest["calls"]) <= {node.name for node in loaded.program.graph.nodes}


def test_the_kernels_agree_with_the_simulation_in_half_precision_too(
    folders: dict[str, Path],
) -> None:
    loaded = load_checkpoint(folders["transformer block"]).to(torch.float16)
    found = parity(loaded.program, loaded.manifest["calls"], [make("transformer block").batch])
    found.check()


@pytest.mark.parametrize("case", SAVED)
def test_everything_moves_to_another_device(case: str, folders: dict[str, Path]) -> None:
    batch = make(case).batch
    loaded = load_checkpoint(folders[case]).to("meta", torch.float16)
    assert {v.device.type for v in loaded.state_dict().values()} == {"meta"}
    there = [x.to("meta") for x in batch.args], {k: x.to("meta") for k, x in batch.kwargs.items()}
    wanted = outputs(load_checkpoint(folders[case]), batch)
    for found, value in zip(pytree.tree_leaves(loaded(*there[0], **there[1])), wanted, strict=True):
        assert (found.shape, found.dtype, found.device.type) == (value.shape, value.dtype, "meta")


def test_inputs_that_lie_elsewhere_are_refused(folders: dict[str, Path]) -> None:
    loaded = load_checkpoint(folders["1d"]).to("meta")
    batch = make("1d").batch
    assert message(lambda: loaded(*batch.args)) == (
        "input: it lies on cpu, the model on meta. Move it: x.to('meta')."
    )
    assert message(lambda: loaded.run(batch)).startswith("input: it lies on cpu")


def test_float64_is_refused(folders: dict[str, Path]) -> None:
    assert message(load_checkpoint(folders["1d"]).double) == (
        "float64: the float ops of an int8 program do not run in it. "
        "Use float32 or float16 or bfloat16."
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_in_one_line(folders: dict[str, Path]) -> None:
    loaded = load_checkpoint(folders["1d"])
    assert message(lambda: loaded.to("cuda")) == (
        "CUDA: this PyTorch is built without CUDA. "
        "Run it on the CPU, or on a machine whose GPU this PyTorch can use."
    )


def test_a_full_gpu_is_said_in_one_line() -> None:
    def full() -> None:
        with placement.reported():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB ...")

    assert message(full) == (
        "CUDA: the GPU is out of memory. Give smaller batches, or free some of its memory."
    )


class Odd(nn.Module):
    """Constants, masks, casts and devices as transformers write them."""

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        mask = (1.0 - (ids > 3).float()) * torch.finfo(torch.float32).min
        steps = torch.arange(x.shape[1], device=x.device) / 2
        x = x * 2 + steps + torch.full((x.shape[1],), 0.5, device=x.device)
        x = x.masked_fill(ids > 5, -3e38).clamp(-100, 100).float() + mask
        out: Tensor = x.softmax(-1)
        return out


def test_constants_beyond_half_precision_and_integers_that_become_floats() -> None:
    x, ids = torch.randn(2, 6), torch.arange(12).view(2, 6) % 7
    program = torch.export.export(Odd(), (x, ids)).module(check_guards=False)
    assert isinstance(program, fx.GraphModule)
    place = placement.Place(torch.device("cpu"), torch.float16)
    moved = moving.placed(program, program.graph, place)
    found, wanted = moved(x, ids), program(x, ids)
    assert found.dtype is torch.float32
    assert torch.allclose(found, wanted, atol=2e-3)
    made = [n for n in moved.graph.nodes if n.target is aten.softmax.int]
    assert made[0].args[0].target is not aten.to.dtype  # it ran in half: nothing to convert
    there = moving.placed(program, program.graph, placement.Place(torch.device("meta"), x.dtype))
    assert there(x.to("meta"), ids.to("meta")).device.type == "meta"
