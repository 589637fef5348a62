"""Whole programs on the GPU (README.md of this folder)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gpu_kit  # before the helpers: it says where they lie
import numpy as np
import pytest
import torch
from int8_models import CASES, make, max_recipe
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from qviz.data import Batch
from qviz.errors import DeviceError
from qviz.int8 import selftest, twin
from qviz.int8.cuda import tuning

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SAMPLES = ("resnet", "efficientnet", "vit")
assert_agrees, there = gpu_kit.assert_agrees, gpu_kit.there


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The CPU computes the contract's arithmetic; no tile is measured."""
    monkeypatch.setenv(selftest.VARIABLE, "exact")
    monkeypatch.setenv(tuning.VARIABLE, "0")
    selftest.forget()
    yield
    selftest.forget()


class _Both(fx.Interpreter):
    """Runs a program on the CPU and every integer call of it on the GPU as well."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.calls = 0

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - any value
        made = super().run_node(n)
        if n.op == "call_function" and twin.is_integer_call(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            moved = pytree.tree_map(there, (tuple(args), dict(kwargs)))
            assert_agrees(n.target(*moved[0], **moved[1]), made, n.name)  # type: ignore[operator]
            self.calls += 1
        return made


def compare(module: fx.GraphModule, inputs: list[Tensor]) -> int:
    """The number of integer calls, all of which agree."""
    walk = _Both(module)
    with torch.no_grad():
        walk.run(*inputs, enable_io_processing=False)
    return walk.calls


@pytest.mark.parametrize("case", CASES)
def test_every_op_of_a_program_agrees_with_the_cpu(case: str) -> None:
    batch = CASES[case].inputs(3)
    made = make(case)
    assert compare(made.lowered.module, [*batch.args, *batch.kwargs.values()]) > 0


def _sample(name: str) -> tuple[torch.nn.Module, Tensor]:
    """A sample model and images for it, without the loader's dependencies."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    folder = gpu_kit.TESTS.parent / "sample_models" / name
    spec = importlib.util.spec_from_file_location(f"sample_{name}", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: torch.nn.Module = module.model()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    about = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    with np.load((folder / about["calibration"]).resolve()) as file:
        images = torch.from_numpy(file[file.files[0]][:16]).float() / 255
    images = images.unsqueeze(1) if images.dim() == 3 else images
    return model.eval(), (images - 0.5) / 0.25


@pytest.mark.parametrize("name", SAMPLES)
def test_every_op_of_a_sample_model_agrees_with_the_cpu(name: str) -> None:
    from qviz.capture import capture
    from qviz.int8.lower import lower
    from qviz.simulate import Simulator

    model, images = _sample(name)
    batch = Batch((images,), {}, None, len(images))
    simulator = Simulator(capture(model, batch))
    lowered = lower(simulator.graph, max_recipe(simulator, batch), simulator)
    assert compare(lowered.module, [images]) >= lowered.integer_ops / 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("safetensors")
    from qviz.int8.checkpoint import save_checkpoint

    save_checkpoint(make("residual CNN").lowered, tmp_path / "int8")
    return tmp_path / "int8"


def _loaded(folder: Path) -> Any:  # noqa: ANN401 - a Checkpoint, whose module is imported late
    from qviz.int8.checkpoint import load_checkpoint

    return load_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_checkpoint_of_integer_ops_gives_on_the_gpu_what_it_gives_on_the_cpu(
    folder: Path, dtype: torch.dtype
) -> None:
    (x,) = CASES["residual CNN"].inputs(5).args
    wanted = _loaded(folder)(x)
    moved = _loaded(folder).to(gpu_kit.DEVICE, dtype)
    assert_agrees(moved(there(x)), wanted, "checkpoint")


def test_a_cuda_graph_replays_a_checkpoint(folder: Path) -> None:
    moved = _loaded(folder).to(gpu_kit.DEVICE)
    (x,) = map(there, CASES["residual CNN"].inputs(4).args)
    (other,) = map(there, CASES["residual CNN"].inputs(4).args)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            moved(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = moved(x)
    wanted = moved(other).clone()
    x.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, wanted)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_torch_compile_takes_a_program(folder: Path, mode: str) -> None:
    moved = _loaded(folder).to(gpu_kit.DEVICE)
    compiled = torch.compile(moved.program, mode=mode, fullgraph=True)
    for seed in range(3):
        torch.manual_seed(seed)
        (x,) = map(there, CASES["residual CNN"].inputs(4).args)
        with torch.no_grad():
            found = pytree.tree_leaves(compiled(x))[0].clone()  # type: ignore[no-untyped-call]
            wanted = pytree.tree_leaves(moved.program(x))[0]
        assert torch.equal(found, wanted)


def test_a_full_gpu_is_said_in_one_line(folder: Path) -> None:
    moved = _loaded(folder).to(gpu_kit.DEVICE)
    x = torch.zeros(1, device=gpu_kit.DEVICE).expand(2_000_000, 3, 16, 16)
    moved(x[:2])
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        with pytest.raises(DeviceError) as caught:
            moved(x)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert str(caught.value) == (
        "CUDA: the GPU is out of memory. Give smaller batches, or free some of its memory."
    )
