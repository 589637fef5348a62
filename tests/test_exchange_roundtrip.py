"""A recipe written in another tool's format and read back is the same recipe."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exchange_kit import FILES, expressible, read, simulator, written
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, recipe

from qviz.recipe import Override, Recipe, resolve

NETWORKS = ("residual", "tokens")
FORMATS = tuple(FILES)


@st.composite
def recipes(draw: st.DrawFn) -> tuple[str, Recipe]:
    """A network and any recipe of it: skips, widths, ranges, profile."""
    name = draw(st.sampled_from(NETWORKS))
    graph = network(name)[1]
    made = recipe(name, draw(st.sampled_from(("cuda", "ort-cpu"))))
    made = replace(made, per_channel=draw(st.booleans()), weight_bits=draw(st.integers(2, 8)))
    operands = st.sampled_from(list(graph.operands))
    ops = st.sampled_from([op.name for op in graph.quantizable])
    for target in draw(st.lists(operands, max_size=2)):
        made = made.override(Override(target, bits=draw(st.integers(2, 8))))
    made = made.skip(*draw(st.lists(st.one_of(operands, ops), max_size=3)))
    for one in made.ranges:
        if draw(st.booleans()):
            factor = draw(st.floats(1e-3, 1e3))
            made = made.with_range(one.tensor, one.lo * factor, one.hi * factor, "mse")
    return name, made


def decisions(name: str, chosen: Recipe) -> dict[str, tuple[bool, int]]:
    found = resolve(chosen, network(name)[1])
    return {n: (d.int8, d.bits if d.int8 else 0) for n, d in found.items()}


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=15, deadline=None)
@given(recipes())
def test_read_over_itself_nothing_changes(format: str, drawn: tuple[str, Recipe]) -> None:
    name, chosen = drawn
    chosen = expressible(name, chosen, format)
    with tempfile.TemporaryDirectory() as folder:
        path = written(name, chosen, Path(folder), format)
        if any(d[0] for d in decisions(name, chosen).values()):
            assert read(name, path, chosen).recipe == chosen


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=15, deadline=None)
@given(recipes())
def test_read_over_another_recipe_int8_bits_and_grids_are_those_of_the_file(
    format: str, drawn: tuple[str, Recipe]
) -> None:
    name, chosen = drawn
    chosen = expressible(name, chosen, format)
    with tempfile.TemporaryDirectory() as folder:
        path = written(name, chosen, Path(folder), format)
        base = recipe(name, chosen.profile)  # everything int8, other ranges
        if not any(d[0] for d in decisions(name, chosen).values()):
            return
        found = read(name, path, base).recipe
    assert decisions(name, found) == decisions(name, chosen)
    if format == "aimet" and any(n.endswith("/weight") for n in _int8(name, chosen)):
        assert found.per_channel == chosen.per_channel
    graph, sim = network(name)[1], simulator(name)
    for operand in graph.operands.values():
        if operand.kind == "activation" and operand.name in _int8(name, chosen):
            bits = resolve(chosen, graph)[operand.name].bits
            one = sim.activation_params(operand.tensor, found, bits)
            other = sim.activation_params(operand.tensor, chosen, bits)
            torch.testing.assert_close(one.scale, other.scale, rtol=1e-5, atol=0)
            assert int(one.zero_point) == int(other.zero_point)


def _int8(name: str, chosen: Recipe) -> set[str]:
    return {n for n, d in resolve(chosen, network(name)[1]).items() if d.int8}


@pytest.mark.parametrize("format", ["aimet", "amct"])
def test_a_zero_point_in_the_middle_is_one(format: str, tmp_path: Path) -> None:
    chosen = recipe("residual", "ort-cpu").with_range("x", -1.28, 1.27)
    path = written("residual", expressible("residual", chosen, format), tmp_path, format)
    found = read("residual", path, recipe("residual", "ort-cpu")).recipe.range_of["x"]
    assert (found.lo, found.hi) == pytest.approx((-1.28, 1.27), rel=1e-6)


@pytest.mark.parametrize("file", ["calibration.json", "minmax.json"])
def test_ranges_without_skips_come_back_from_the_other_forms(file: str, tmp_path: Path) -> None:
    chosen = recipe("residual")
    path = written("residual", chosen, tmp_path, "ranges").with_name(file)
    assert read("residual", path, chosen).recipe == chosen


def test_a_config_alone_says_what_is_float(tmp_path: Path) -> None:
    chosen = recipe("residual").skip("conv2", "add")
    path = written("residual", chosen, tmp_path, "amct").with_name("config.json")
    found = read("residual", path, recipe("residual")).recipe
    assert found == chosen


def test_the_limits_of_ranges_json_are_exact(tmp_path: Path) -> None:
    chosen = recipe("residual").with_range("x", -0.1, 1 / 3, "entropy")
    path = written("residual", chosen, tmp_path, "ranges")
    found = read("residual", path, Recipe()).recipe
    assert found.range_of["x"] == chosen.range_of["x"]
