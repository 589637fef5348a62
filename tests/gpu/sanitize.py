"""Every operator once over the grid of small shapes, for compute-sanitizer (README.md)."""

from __future__ import annotations

import os
import sys

import gpu_kit
import torch
from cuda_cases import GROUPS

from qviz.int8 import pool, selftest
from qviz.int8.cuda import tuning


def main() -> None:
    if not torch.cuda.is_available():
        print("sanitize: no CUDA device.")
        sys.exit(2)
    os.environ[selftest.VARIABLE] = "exact"
    os.environ[tuning.VARIABLE] = "0"
    assert pool.max_pool is not None  # the import registers the operators
    calls = 0
    for group in GROUPS.values():
        for name, op, args in group():
            function = getattr(torch.ops.qviz, op)
            gpu_kit.assert_agrees(function(*map(gpu_kit.there, args)), function(*args), name)
            calls += 1
    torch.cuda.synchronize()
    print(f"{calls} calls agree with the CPU")


if __name__ == "__main__":
    main()
