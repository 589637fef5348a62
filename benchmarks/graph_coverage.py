"""Coverage: which library architectures are captured, and how much of each can be int8.

    python benchmarks/graph_coverage.py [--only resnet50,bert] [--list]

For each architecture: whether ``capture`` takes it (or the message with which it is refused), how
long that takes, its ops, the share of its multiply-accumulates in ops that have int8 arithmetic,
why the other ops stay float, and how far the captured graph is from the model on other samples in
a batch of another size.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections import Counter
from typing import Any

import torch
from architectures import architecture, image_size, images
from timing import write
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformer_models import MODELS, inputs, transformer

from qviz.capture import capture
from qviz.coverage import coverage
from qviz.data import Batch
from qviz.errors import QvizError
from qviz.execute import Program
from qviz.graph import Graph

TIMM = [
    "resnet50",
    "resnext50_32x4d",
    "seresnet50",
    "skresnet50",
    "resnest50d",
    "densenet121",
    "vgg16_bn",
    "inception_v3",
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "efficientnet_lite0",
    "mnasnet_100",
    "fbnetc_100",
    "regnetx_008",
    "regnety_008",
    "ghostnet_100",
    "rexnet_100",
    "repvgg_a2",
    "hrnet_w18_small",
    "dla34",
    "ese_vovnet19b_dw",
    "cspdarknet53",
    "nfnet_f0",
    "convnext_tiny",
    "vit_small_patch16_224",
    "deit_small_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "resmlp_12_224",
    "poolformer_s12",
    "cait_xxs24_224",
    "xcit_nano_12_p16_224",
    "levit_128s",
    "pit_ti_224",
    "pvt_v2_b0",
    "coatnet_0_rw_224",
    "edgenext_small",
    "mobilevit_s",
    "efficientvit_b0",
    "fastvit_t8",
    "mobileone_s0",
    "repvit_m1",
    "hgnet_tiny",
    "starnet_s1",
]


class _Named(nn.Module):
    """A transformers model as a function of its tensors: outputs as a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **tensors: Tensor) -> tuple[Tensor, ...]:
        made: Any = self.model(**tensors, return_dict=False)
        return tuple(leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor))


def build(name: str) -> tuple[nn.Module, Batch, Batch]:
    """A model, two samples to capture it with and three others to compare on."""
    if name in MODELS:
        model = transformer(name)
        pairs = [inputs(name, count, seed) for count, seed in ((2, 0), (3, 1))]
        first, second = (Batch((), kw, None, len(next(iter(kw.values())))) for kw in pairs)
        return model, first, second
    model = architecture(name, warm=2)
    side = image_size(model)
    first = Batch((images(2, 0, side),), {}, None, 2)
    return model, first, Batch((images(3, 1, side),), {}, None, 3)


def difference(model: nn.Module, graph: Graph, batch: Batch) -> float:
    """Largest difference of any output over the largest value of that output."""
    program = Program(graph)
    with torch.no_grad():
        wanted = [v for v in pytree.tree_leaves(model(*batch.args, **batch.kwargs))]
    wanted = [v for v in wanted if isinstance(v, Tensor)]
    made = [v for v in program.run(program.inputs(batch)) if isinstance(v, Tensor)]
    if len(wanted) != len(made):
        raise AssertionError(f"{len(made)} outputs instead of {len(wanted)}")
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
        for a, b in zip(made, wanted, strict=True)
    )


def row(name: str) -> dict[str, object]:
    """What became of one architecture; a failure is a row, so that none hides the others."""
    try:
        model, first, second = build(name)
    except Exception as error:
        return {"name": name, "captured": False, "error": f"not built: {error}"}
    try:
        return _captured(name, model, first, second)
    except QvizError as error:
        return {"name": name, "captured": False, "error": str(error)}
    except Exception as error:
        return {"name": name, "captured": False, "error": f"{type(error).__name__}: {error}"}


def _captured(name: str, model: nn.Module, first: Batch, second: Batch) -> dict[str, object]:
    start = time.perf_counter()
    graph = capture(model, first)
    seconds = time.perf_counter() - start
    rows = coverage(graph)
    int8 = sum(r.macs for r in rows if r.status == "int8")
    reasons = Counter(f"{r.type}: {r.reason}" for r in rows if r.status == "float")
    return {
        "name": name,
        "captured": True,
        "seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "ops": len(rows),
        "quantizable": len(graph.quantizable),
        "int8_macs": int8 / max(1, graph.macs),
        "difference": difference(model, graph, second),
        "float": dict(reasons.most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = options.only.split(",") if options.only else [*TIMM, *MODELS]
    if options.list:
        print("\n".join(names))
        return
    warnings.simplefilter("ignore")
    rows = []
    for name in names:
        rows.append(row(name))
        print(_line(rows[-1]), flush=True)
        gc.collect()  # what torch.export leaves behind refers to itself
    print(f"{sum(bool(r['captured']) for r in rows)} of {len(rows)} captured")
    if not options.only:
        write("graph_coverage", rows)


def _line(r: dict[str, Any]) -> str:
    if not r["captured"]:
        return f"{r['name']:34} {r['error']}"
    top = ", ".join(f"{n} x {reason}" for reason, n in list(r["float"].items())[:2])
    return (
        f"{r['name']:34} {r['seconds']:6.1f} s {r['ops']:5} ops {r['quantizable']:4} quantizable "
        f"{r['int8_macs']:7.2%} of MACs  differs {r['difference']:.1e}  {top}"
    )


if __name__ == "__main__":
    main()
