"""Which backend runs what, and that an inexact kernel is never the one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from int8_oracle import random_codes

from qviz.errors import InputError
from qviz.int8 import cpu, onednn, ops, reference, selftest
from qviz.int8.selftest import Capability

KINDS = [
    "conv1d", "conv2d", "conv3d", "depthwise", "linear", "matmul", "add", "conv_transpose",
]  # fmt: skip
INEXACT = Capability("exact", "oneDNN's kernel is inexact on this CPU (no VNNI or AMX)")
PROVED = Capability("onednn", "exact in the self-test")

#: Run in a process of its own, because oneDNN reads its instruction set once. Prints what was
#: chosen and how many of the sums come out wrong, through the ops and straight from the kernel.
EMULATED = """
import json, torch
from qviz.int8 import onednn, ops, selftest
from qviz.int8.epilogue import Epilogue
from qviz.int8.operands import Weight
from qviz.int8.packing import packed_weight
x = torch.full((4, 256), 127, dtype=torch.int8)
weight = torch.full((16, 256), 127, dtype=torch.int8)
right = torch.full((4, 16), 127.0 * 127 * 256)
q = torch.ops.qviz
one = torch.ones(16)
image, kernel = x[..., None, None], weight[..., None, None]
outputs = {
    "linear": q.linear(x, 1.0, weight, one, None),
    "conv2d": q.conv(image, 1.0, kernel, one, None, [1, 1], [0, 0], [1, 1], 1).flatten(1),
    "kernel": onednn.linear(
        onednn.carried(x, 1.0), Weight(packed_weight(weight), one, None), Epilogue()
    ),
}
print(json.dumps({
    "capabilities": selftest.capabilities(),
    "wrong": {name: int((out != right).sum()) for name, out in outputs.items()},
}))
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test asks anew, and leaves nothing chosen behind."""
    monkeypatch.delenv(selftest.VARIABLE, raising=False)
    selftest.forget()
    yield
    selftest.forget()


def emulated(**variables: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", EMULATED],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_every_kind_of_op_has_a_backend_and_a_reason() -> None:
    found = selftest.capabilities()
    assert list(found) == KINDS
    assert set(found.values()) <= {
        PROVED,
        INEXACT,
        Capability("exact", "this build of PyTorch has no oneDNN int8 kernels"),
        Capability("exact", selftest.CARRIED["conv_transpose"]),
    }
    assert found["conv_transpose"].backend == "exact"


@pytest.mark.skipif(not onednn.available(), reason="no oneDNN int8 kernels in this PyTorch")
def test_saturating_instructions_are_found_out_and_named() -> None:
    result = emulated(ONEDNN_MAX_CPU_ISA="AVX2")
    capabilities = {kind: Capability(*found) for kind, found in result["capabilities"].items()}
    for kind in ("conv1d", "conv2d", "conv3d", "linear", "matmul"):
        assert capabilities[kind] == INEXACT
    assert result["wrong"] == {"linear": 0, "conv2d": 0, "kernel": 64}


def test_the_environment_can_carry_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selftest.VARIABLE, "exact")
    carried = Capability("exact", "QVIZ_INT8_BACKEND=exact")
    assert selftest.capabilities() == dict.fromkeys(KINDS, carried)


def test_unknown_backend_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(selftest.VARIABLE, "fast")
    with pytest.raises(InputError) as error:
        selftest.capabilities()
    assert str(error.value) == "QVIZ_INT8_BACKEND=fast: no such backend. Use auto or exact."


def test_a_kernel_that_is_wrong_once_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selftest.EXACT, "linear", lambda: False)
    monkeypatch.setattr(onednn, "available", lambda: True)
    assert selftest.capability("linear") == INEXACT


def test_a_kernel_that_raises_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise RuntimeError("could not create a primitive\nand a second line")

    monkeypatch.setitem(selftest.EXACT, "linear", broken)
    monkeypatch.setattr(onednn, "available", lambda: True)
    expected = Capability("exact", "oneDNN: could not create a primitive")
    assert selftest.capability("linear") == expected


def test_a_reference_kernel_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(selftest.EXACT, "linear", lambda: True)
    monkeypatch.setattr(onednn, "available", lambda: True)
    monkeypatch.setattr(selftest, "_slowdown", lambda: 500.0)
    expected = Capability("exact", "oneDNN's kernel is 500 times slower than float here")
    assert selftest.capability("linear") == expected


def test_a_build_without_the_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "available", lambda: False)
    expected = Capability("exact", "this build of PyTorch has no oneDNN int8 kernels")
    assert selftest.capability("conv2d") == expected


def test_a_declined_shape_runs_exact_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def declining(*_: object) -> torch.Tensor:
        raise RuntimeError("could not create a primitive descriptor\nmore")

    monkeypatch.setattr(selftest, "_BACKENDS", {"linear": "onednn"})
    monkeypatch.setattr(cpu, "_REFUSALS", {})
    monkeypatch.setattr(onednn, "linear", declining)
    x, weight = random_codes(3, 20), random_codes(5, 20, low=-127)
    out = torch.ops.qviz.linear(x, 1.0, weight, torch.ones(5), None)
    assert np.array_equal(out.numpy(), reference.codes(x) @ reference.codes(weight).T)
    assert cpu.refusals() == {"linear": "could not create a primitive descriptor"}


def test_a_kind_is_tested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def exact() -> bool:
        asked.append("add")
        return True

    monkeypatch.setattr(onednn, "available", lambda: True)
    monkeypatch.setitem(selftest.EXACT, "add", exact)
    for _ in range(3):
        assert selftest.backend("add") == "onednn"
    assert asked == ["add"]


def test_importing_the_ops_tests_nothing() -> None:
    code = "from qviz.int8 import ops, selftest; print(ops.LIBRARY.ns, selftest._CHOICES)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ops.LIBRARY.ns} {{}}\n"
