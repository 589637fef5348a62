"""The shape of the package: who may import whom, who may import what, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import qviz

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "qviz"

#: The groups from the bottom up. A module may import its own group and those above it in this
#: table. A name that ends in ".*" is a sub-package, one that ends in "*" a prefix.
GROUPS: dict[str, tuple[str, ...]] = {
    "numbers": (
        "errors",
        "affine",
        "histogram*",
        "calibrators",
        "range_search*",
        "matmul",
        "metrics",
        "scores",
        "intervals",
        "progress",
        "digits",
        "diagnosis",
    ),
    "graph": (
        "graph",
        "capture",
        "rewrite",
        "normalize",
        "contexts",
        "naming",
        "facts",
        "optypes",
        "scan",
        "data",
        "collate",
        "execute",
        "kernels",
        "observe",
        "weights",
    ),
    "quantized model": ("recipe*", "profiles", "simulate"),
    "analysis": (
        "calibration",
        "coverage",
        "bench*",
        "estimate",
        "evaluate",
        "live",
        "proxy",
        "ranking",
        "scoreboard",
        "sensitivity",
        "sweep",
        "search.*",
        "tune.*",
        "node_data",
    ),
    "edges": (
        "int8.*",
        "export.*",
        "loading*",
        "preprocessing",
        "records",
        "samples",
        "shipped",
        "store*",
    ),
    "pictures": ("figures*", "tables*", "report", "report_*"),
    "session": (
        "session",
        "allocating*",
        "measuring",
        "remedying",
        "tuning",
        "tunings",
        "training",
        "opening",
        "auto*",
        "jobs",
        "background",
        "meter",
        "reporting",
        "reproduce",
        "run_results",
    ),
    "faces": ("cli*", "notebook*", "ui.*", "__init__", "__main__"),
}
ORDER = tuple(GROUPS)

#: Pictures are values to values: drawing must not need a disk, a checkpoint or a session.
NOT_FOR_PICTURES = {"edges"}

HEAVY = ("streamlit", "plotly", "numba", "onnx", "onnxruntime", "timm", "torchvision", "torch")


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name inside it: "search.greedy", "errors"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).with_suffix("")
        if relative.parts[0] == "_shipped":
            continue
        parts = relative.parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def group_of(module: str) -> str | None:
    for group, patterns in GROUPS.items():
        for pattern in patterns:
            stem = pattern.rstrip("*").rstrip(".")
            exact = module == stem
            below = pattern.endswith(".*") and module.startswith(stem + ".")
            prefixed = pattern.endswith("*") and not pattern.endswith(".*")
            if exact or below or (prefixed and module.startswith(stem)):
                return group
    return None


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports(path: Path) -> frozenset[str]:
    """Absolute names of the modules a file imports, wherever in the file it does so."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            assert node.module is not None
            # `from qviz.search import greedy` may name a module or something in one.
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    names = {name.removeprefix("qviz.") for name in imports(path) if name.startswith("qviz.")}
    return names & modules().keys()


def files_that_import(package: str) -> list[str]:
    files = [*PACKAGE.rglob("*.py"), ROOT / "app.py", *(ROOT / "pages").glob("*.py")]
    return [
        path.relative_to(ROOT).as_posix()
        for path in files
        if "_shipped" not in path.parts
        and any(name.split(".")[0] == package for name in imports(path))
    ]


def test_every_module_has_its_place_in_the_table() -> None:
    assert [name for name in modules() if group_of(name) is None] == []


def test_no_module_imports_a_higher_group() -> None:
    wrong = []
    for module in modules():
        own = group_of(module)
        for other in sorted(imported_modules(modules()[module])) if module != "__init__" else ():
            theirs = group_of(other)
            assert own is not None
            assert theirs is not None
            higher = ORDER.index(theirs) > ORDER.index(own)
            if higher or (own == "pictures" and theirs in NOT_FOR_PICTURES):
                wrong.append(f"{module} ({own}) imports {other} ({theirs})")
    assert wrong == []


def test_no_module_imports_the_public_names() -> None:
    """They are the outside; inside, what is imported says where it lives."""
    public = {f"qviz.{name}" for name in qviz.__all__ if name != "__version__"}
    inside = [name for name in modules() if name != "__init__"]
    assert [name for name in inside if public & imports(modules()[name])] == []


def test_streamlit_is_imported_only_by_the_app() -> None:
    allowed = ("qviz/ui/", "pages/", "app.py")
    assert [name for name in files_that_import("streamlit") if not name.startswith(allowed)] == []


def test_plotly_is_imported_only_where_pictures_are_made_or_shown() -> None:
    allowed = ("qviz/figures", "qviz/report", "qviz/notebook", "qviz/ui/", "pages/")
    assert [name for name in files_that_import("plotly") if not name.startswith(allowed)] == []


def test_nothing_is_unpickled_outside_the_loader() -> None:
    """`torch.load` stands in one place, so that `weights_only=True` is checked in one place."""
    for name, path in modules().items():
        for node in nodes(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert name.startswith("loading"), f"{name} calls torch.load"
                assert "weights_only=True" in ast.unparse(node), f"{name} unpickles code"


def test_no_file_is_longer_than_two_ideas() -> None:
    lines = {n: p.read_text(encoding="utf-8").count("\n") for n, p in modules().items()}
    assert {name: count for name, count in lines.items() if count > 400} == {}


@pytest.mark.parametrize("page", sorted((ROOT / "pages").glob("*.py")), ids=lambda path: path.stem)
def test_a_page_is_layout_only(page: Path) -> None:
    assert page.read_text(encoding="utf-8").count("\n") < 80


def test_importing_qviz_imports_nothing_heavy() -> None:
    code = "import qviz, sys; print(*sorted(set(sys.argv[1:]) & sys.modules.keys()))"
    run = subprocess.run(
        [sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.split() == []
