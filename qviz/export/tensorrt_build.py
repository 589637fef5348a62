"""The two ways to build a TensorRT engine of an exported file: a command, and a Python script.

Neither imports qviz: they travel with the file to the machine that has the GPU. Both build a
strongly typed network, whose precisions are those of the file, for batches of 1 to 32, and write
what the engine inspector says of every layer, which ``qviz precision`` reads.
"""

from __future__ import annotations

from qviz.graph import Graph

BUILD_SH = "build.sh"
BUILD_PY = "build_engine.py"
#: Smallest, preferred and largest batch of the optimization profile.
BATCHES = (1, 8, 32)
#: Where the engine inspector's answer goes.
LAYERS = "engine.layers.json"

_SH = """\
#!/bin/sh
# Builds engine.plan from model.onnx with TensorRT 10 or 11 and writes {layers}, from which
# `qviz precision .` says which precision each op got.
# --stronglyTyped is needed before TensorRT 11, which always is.
set -e
cd "$(dirname "$0")"
exec trtexec --onnx=model.onnx --saveEngine=engine.plan --stronglyTyped \\
{shapes}    --profilingVerbosity=detailed --exportLayerInfo={layers} "$@"
"""

_PY = '''\
"""Build engine.plan from model.onnx with TensorRT 10 or 11; needs the tensorrt package and a GPU.

Writes {layers}, the precision of every layer, for `qviz precision`.
"""

import argparse
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
# input -> smallest, preferred and largest shape
SHAPES = {shapes}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--engine", type=pathlib.Path, default=HERE / "engine.plan")
    options.add_argument("--workspace-gib", type=float, default=4.0)
    given = options.parse_args()
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # int8 and float types are those of the file; TensorRT 11 knows no other networks
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse((HERE / "model.onnx").read_bytes()):
        for number in range(parser.num_errors):
            print(parser.get_error(number), file=sys.stderr)
        return 1
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(
        trt.MemoryPoolType.WORKSPACE, int(given.workspace_gib * (1 << 30))
    )
    profile = builder.create_optimization_profile()
    for name, (smallest, preferred, largest) in SHAPES.items():
        profile.set_shape(name, smallest, preferred, largest)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        print("TensorRT could not build an engine; its messages are above", file=sys.stderr)
        return 1
    given.engine.write_bytes(plan)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    inspector = engine.create_engine_inspector()
    layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    (HERE / "{layers}").write_text(layers, encoding="utf-8")
    print(f"{{given.engine}} and {{HERE / '{layers}'}} are written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''


def build_sh(graph: Graph) -> str:
    """The trtexec command."""
    shapes = ""
    for option, number in (("min", 0), ("opt", 1), ("max", 2)):
        sizes = ",".join(
            f"{_quoted(name)}:{'x'.join(str(s) for s in each[number])}"
            for name, each in input_shapes(graph).items()
        )
        if sizes:
            shapes += f'    "--{option}Shapes={sizes}" \\\n'
    return _SH.format(shapes=shapes, layers=LAYERS)


def build_engine_py(graph: Graph) -> str:
    """The Python script."""
    rows = "".join(f"    {name!r}: {each!r},\n" for name, each in input_shapes(graph).items())
    return _PY.format(shapes=f"{{\n{rows}}}", layers=LAYERS)


def input_shapes(graph: Graph) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Smallest, preferred and largest shape of each input that has a batch axis."""
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    for item in graph.inputs:
        info = graph.tensors[item.tensor]
        if info.batch_dim is not None:
            axis, multiple = info.batch_dim, info.batch_multiple
            rest = list(info.shape)
            if multiple != 1:  # the tensor's shape tells how many entries a sample has
                del rest[axis]
            shapes[item.tensor] = tuple(
                (*rest[:axis], count * multiple, *rest[axis:]) for count in BATCHES
            )
    return shapes


def _quoted(name: str) -> str:
    """A name as trtexec takes it: in quotes where it has a colon."""
    return f"'{name}'" if ":" in name else name
