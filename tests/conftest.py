"""Small values that more than one test file needs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import pytest
import torch

from qviz.intervals import Interval
from qviz.recipe import Recipe
from qviz.search.skip import SearchResult, SkipPoint
from qviz.sensitivity import Sensitivity, SensitivityRow

#: Files that take longest. They come first: a worker is given the first tests as one piece, so what
#: they share is made once, and the other tests go to whoever is free.
LONGEST = ("test_tutorial", "test_story")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files in front."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(scope="module", autouse=True)
def seeded_module() -> None:
    """What a file's fixtures make at random does not depend on the tests that ran before."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def seeded(seeded_module: None) -> None:
    """Nor does what a test makes."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def components_are_looked_for_once() -> Iterator[None]:
    """Streamlit reads the metadata of every installed package for every new page under test."""
    if "streamlit.testing.v1" not in sys.modules:  # no page is tested
        yield
        return
    from streamlit.components.v2 import manifest_scanner as scanner

    once = functools.cache(scanner.scan_component_manifests)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanner, "scan_component_manifests", once)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Models that tests of the app have opened go on measuring in the background: end that."""
    yield
    if "qviz.ui.visit" in sys.modules:
        from qviz.ui import visit

        visit.workspaces().models.close(30)


@pytest.fixture
def ranking() -> Sensitivity:
    """One op that was measured and one that is still estimated."""
    return Sensitivity(
        rows=(
            SensitivityRow(
                name="conv",
                type="conv2d",
                divergence=0.3,
                divergence_interval=Interval(0.2, 0.5),
                change=-0.02,
                change_interval=Interval(-0.03, -0.01),
                value=0.9,
                samples=100,
                exact=True,
                rank=0,
                tie=0,
            ),
            SensitivityRow("fc", "linear", 0.1, None, None, None, None, 0, False, 1, 1),
        ),
        mode="only_this",
        operands="both",
        metric="top1",
        divergence_name="kl",
    )


@pytest.fixture
def found() -> SearchResult:
    """A search that reached its target by leaving one op in float."""
    start = SkipPoint((), 0.02, 0.01, 0.03, 0.025, 0.0, 0.88, "add")
    best = SkipPoint(("conv",), 0.005, 0.0, 0.01, None, 0.25, 0.895, "add")
    return SearchResult(
        recipe=Recipe(),
        reached=True,
        max_drop=0.01,
        best=best,
        curve=(start, best),
        quantizable=2,
        flat=False,
        method="greedy",
    )
