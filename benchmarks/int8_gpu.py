"""int8 on an NVIDIA GPU: whole models beside compiled fp16, kernels beside the card's int8 peak.

    python benchmarks/int8_gpu.py [--models resnet50,...] [--batches 1,32] [--turns 30] [--kernels]

The reference is the user's model in fp16, channels last, through torch.compile (max-autotune);
contenders are the lowered program with fp16 float ops, as it is and through torch.compile. Every
run is captured in a CUDA graph after its warm-up and timed by CUDA events, in turns; medians.
``speed_up`` is the reference's time over the contender's. ``--kernels`` times single int8 products
and convolutions, as a part of what cuBLASLt's int8 product of 8192 x 8192 x 8192 reaches on the
same card in the same process. What is measured replaces those rows of the results.

Exits with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from int8_timed import MODELS
from timing import RESULTS, machine
from torch import Tensor, fx, nn

from qviz.affine import Grid
from qviz.calibration import Calibration, make_recipe
from qviz.capture import capture
from qviz.data import as_data
from qviz.int8 import moving, placement
from qviz.int8.checkpoint import export_program
from qviz.int8.lower import lower
from qviz.observe import observe
from qviz.simulate import Simulator

Run = Callable[[], object]
#: The transformers are reported at batch 32 alone.
BATCHES = {"resnet50": (1, 32, 256), "vit_base_patch16_224": (32,), "bert_base": (32,)}
REFERENCE = "fp16 compiled"
LARGEST = 8192
#: Runs in one timed graph of a kernel: one alone is shorter than what timing it costs.
REPEATS = 20
#: M, K, N of linear layers: ViT-B and BERT-base at batch 32, and square ones.
PRODUCTS = (
    (6304, 768, 3072), (6304, 3072, 768), (4096, 768, 2304), (4096, 4096, 4096), (8192, 8192, 8192),
)  # fmt: skip
#: Batch, channels, size, output channels, kernel, stride: ResNet-50's at batch 256.
CONVOLUTIONS = (
    (256, 64, 56, 64, 3, 1), (256, 128, 28, 128, 3, 1), (256, 256, 14, 256, 3, 1),
    (256, 512, 7, 512, 3, 1), (256, 256, 56, 64, 1, 1), (256, 512, 28, 1024, 1, 2),
    (256, 3, 224, 64, 7, 2),
)  # fmt: skip


def graphed(run: Run) -> Run:
    """A CUDA graph of a run, after a warm-up that compiles and tunes what there is to."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def milliseconds(runs: Mapping[str, Run], turns: int) -> dict[str, float]:
    """Median time of each run; they take turns, so that a clock that changes changes all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 3):
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            if turn >= 3:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(each) for name, each in times.items()}


def lowered(model: nn.Module, shown: Tensor) -> fx.GraphModule:
    """The model's integer program on the GPU, its float ops in fp16."""
    data = as_data(shown, "calibration")
    graph = capture(model, next(iter(data.head(2).batches(2))))
    simulator = Simulator(graph)
    found = Calibration(observe(simulator.program, data), data.count, Grid())
    program = export_program(lower(graph, make_recipe(found, "max"), simulator))
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    place = placement.Place(torch.device("cuda"), torch.float16)
    return moving.placed(module, module.graph, place)


def whole_model(name: str, batches: tuple[int, ...], turns: int) -> Iterator[dict[str, Any]]:
    """Rows of one model: int8 beside compiled fp16."""
    timed = MODELS[name]
    model = timed.make()
    ours = lowered(model, timed.inputs(8, 1))
    half = model.to("cuda", torch.float16).to(memory_format=torch.channels_last)
    tuned = torch.compile(half, mode="max-autotune-no-cudagraphs")  # graphed below, as the others
    ours_compiled = torch.compile(ours, mode="max-autotune-no-cudagraphs")
    for batch in batches:
        x = timed.inputs(batch, 2).cuda()
        image = x.is_floating_point()
        narrow = x.half().contiguous(memory_format=torch.channels_last) if image else x
        contenders: dict[str, Run] = {
            REFERENCE: lambda narrow=narrow: tuned(narrow),
            "int8": lambda x=x: ours(x),
            "int8 compiled": lambda x=x: ours_compiled(x),
        }
        found = milliseconds({n: graphed(run) for n, run in contenders.items()}, turns)
        for contender, time in found.items():
            yield {
                "model": name,
                "batch": batch,
                "name": contender,
                "ms": time,
                "speed_up": found[REFERENCE] / time,
                "turns": turns,
            }


def _codes(*shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda")


def kernels(turns: int) -> Iterator[dict[str, Any]]:
    """Rows of single kernels: tera-operations per second, and the part of the peak they are."""
    square = _codes(LARGEST, LARGEST)
    calls: dict[str, tuple[Run, int]] = {
        "peak": (lambda: torch._int_mm(square, square.t()), 2 * LARGEST**3)
    }
    for m, k, n in PRODUCTS:
        x, weight, scale, bias = _codes(m, k), _codes(n, k), torch.rand(n).cuda(), torch.zeros(n)
        args = (x, 0.01, weight, scale, bias.cuda(), None, 1.0, "relu", [], 0.5)
        calls[f"linear {m} x {k} x {n}"] = (
            lambda args=args: torch.ops.qviz.linear(*args), 2 * m * k * n
        )  # fmt: skip
    for batch, channels, size, width, kernel, stride in CONVOLUTIONS:
        x = _codes(batch, channels, size, size).contiguous(memory_format=torch.channels_last)
        weight, scale = _codes(width, channels, kernel, kernel), torch.rand(width).cuda()
        window = ([stride] * 2, [kernel // 2] * 2, [1, 1], 1)
        args = (x, 0.01, weight, scale, None, *window, None, 1.0, "relu", [], 0.5)
        out = (size + 2 * (kernel // 2) - kernel) // stride + 1
        work = 2 * batch * out**2 * width * channels * kernel**2
        calls[f"conv {batch} x {channels} x {size}² to {width}, {kernel}²/{stride}"] = (
            lambda args=args: torch.ops.qviz.conv(*args), work
        )  # fmt: skip

    def repeated(run: Run) -> Run:
        return graphed(lambda: [run() for _ in range(REPEATS)])

    times = milliseconds({name: repeated(run) for name, (run, _) in calls.items()}, turns)
    rates = {name: calls[name][1] * REPEATS / time / 1e9 for name, time in times.items()}
    for name, rate in rates.items():
        yield {
            "kernel": name,
            "us": times[name] / REPEATS * 1e3,
            "tops": rate,
            "of_peak": rate / rates["peak"],
            "turns": turns,
        }


def write(rows: list[dict[str, Any]]) -> None:
    """Put rows into the results, in the place of older ones of the same run."""
    import triton

    path = RESULTS / "int8_gpu.json"

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(k) for k in ("model", "batch", "name", "kernel"))

    here = {
        **machine(),
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }
    old = json.loads(path.read_text()) if path.exists() else {"machine": here, "rows": []}
    kept = old["rows"] if old["machine"].get("gpu") == here["gpu"] else []
    merged = {key(row): row for row in (*kept, *rows)}
    RESULTS.mkdir(exist_ok=True)
    content = {"benchmark": "int8_gpu", "machine": here, "rows": list(merged.values())}
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(BATCHES))
    parser.add_argument("--batches", help="instead of those that are reported")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--kernels", action="store_true", help="time kernels instead of models")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("int8_gpu: PyTorch finds no CUDA GPU; there is nothing to time.", file=sys.stderr)
        sys.exit(2)
    rows: list[dict[str, Any]] = []

    def report(found: Iterator[dict[str, Any]]) -> None:
        for row in found:
            print(*(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()))
            rows.append(row)
            write(rows)

    with torch.no_grad():
        if options.kernels:
            report(kernels(options.turns))
            return
        for name in options.models.split(","):
            asked = options.batches
            batches = tuple(map(int, asked.split(","))) if asked else BATCHES[name]
            report(whole_model(name, batches, options.turns))


if __name__ == "__main__":
    main()
