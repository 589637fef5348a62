"""What a person gets who installs qviz: names, versions, files that travel with the package."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import qviz
from qviz.errors import InputError
from qviz.shipped import ShippedName, shipped

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", qviz.__all__)
def test_public_names(name: str) -> None:
    assert getattr(qviz, name) is not None


def test_dir_lists_the_public_names_and_no_other() -> None:
    assert len(set(qviz.__all__)) == len(qviz.__all__)
    assert dir(qviz) == sorted(qviz.__all__)


def test_a_public_name_is_not_also_a_submodule() -> None:
    """Importing the submodule would silently replace the name."""
    assert [name for name in qviz.__all__ if importlib.util.find_spec(f"qviz.{name}")] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'qviz' has no attribute 'quantise'$"):
        qviz.quantise  # noqa: B018


def test_the_version_is_said_once() -> None:
    assert PROJECT["project"]["version"] == qviz.__version__ == metadata.version("qviz")


def test_every_dependency_is_pinned_for_development() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["app"], *extras["onnx"], *extras["dev"]]
    names = {re.split(r"[\[<>=]", line)[0] for line in wanted} - {"qviz"}
    pinned = {name.lower() for name in PINS}
    assert {name for name in names if name.lower() not in pinned} == set()


def test_torch_is_pinned_without_a_build_tag() -> None:
    assert re.fullmatch(r"[\d.]+", PINS["torch"])


@pytest.mark.parametrize("name", ["sample_models", "app.py", "pages", ".streamlit"])
def test_shipped_files_are_found_in_a_checkout(name: ShippedName) -> None:
    assert shipped(name) == ROOT / name


def test_a_missing_shipped_file_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("qviz.shipped._PACKAGE", tmp_path / "qviz")
    with pytest.raises(InputError) as caught:
        shipped("pages")
    assert str(caught.value) == (
        f"pages: is missing from the installation in {tmp_path / 'qviz'}. "
        "Install qviz again, or run it from a complete checkout."
    )


def test_an_installed_wheel_finds_what_it_carries(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path / "dist")
    names = zipfile.ZipFile(wheel).namelist()
    carried = {"app.py", "pages/ranges.py", ".streamlit/config.toml"}
    carried |= {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sample_models").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {f"qviz/_shipped/{name}" for name in carried} - set(names) == set()
    assert {"qviz/py.typed", "qviz/ui/main.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]

    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = "from qviz.shipped import shipped; print(shipped('sample_models'), shipped('app.py'))"
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    inside = (site / "qviz" / "_shipped").resolve()
    assert run.stdout.split() == [str(inside / "sample_models"), str(inside / "app.py")]


def test_the_command_is_declared() -> None:
    assert PROJECT["project"]["scripts"] == {"qviz": "qviz.cli:main"}
    assert importlib.util.find_spec("qviz.cli")


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout with the backend that pyproject.toml names."""
    code = (
        "import os, sys; from hatchling.build import build_wheel;"
        "os.makedirs(sys.argv[1]); build_wheel(sys.argv[1])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    return next(folder.glob("*.whl"))
