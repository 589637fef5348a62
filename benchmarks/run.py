"""All benchmarks at the sizes that are reported, each in a process of its own.

    python benchmarks/run.py [--threads 1] [--only calibration,sensitivity]

Writes ``results/*.json``. One failing does not stop the others; the exit code says whether all ran.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

#: Script and its options beside --threads, the quick ones first.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "range_search": (),
    "int8_cpu": (),
    "calibration": (),
    "graph_coverage": (),
    "sensitivity": (),
    "onnx_accuracy": (),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="names, separated by commas")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(SCRIPTS)
    unknown = [name for name in names if name not in SCRIPTS]
    if unknown:
        parser.error(f"no such benchmark: {unknown[0]}; there are {', '.join(SCRIPTS)}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        script = Path(__file__).parent / f"{name}.py"
        command = [sys.executable, str(script), *SCRIPTS[name], "--threads", str(options.threads)]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {time.perf_counter() - start:.0f} s\n", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
