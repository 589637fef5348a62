"""What is said of the shape of a tensor, and what is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qviz.affine import Grid
from qviz.calibrators import candidates
from qviz.diagnosis import Finding, diagnose, diagnose_weight, weight_cost
from qviz.histogram import Histogram, collect, empty

INT8 = Grid()


def bell(n: int = 200_000) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


def found(x: Tensor, grid: Grid = INT8, channel_dim: int | None = None) -> list[Finding]:
    h = collect(x, channel_dim)
    return list(diagnose(h, grid, candidates(h, grid)))


def no_range(h: Histogram) -> list[Finding]:
    return list(diagnose(h, INT8, ()))


@pytest.mark.parametrize("x", [bell(), bell().relu(), bell().abs() + 0.1], ids=["", "relu", "abs"])
def test_an_ordinary_tensor_has_no_finding(x: Tensor) -> None:
    assert found(x) == []


def test_a_tensor_no_sample_reached() -> None:
    assert no_range(empty()) == [
        Finding(
            "never saw data",
            "No calibration sample reached this tensor.",
            "Calibrate with samples that reach it with finite values; until then the ops that "
            "read it stay float.",
        )
    ]


def test_a_tensor_of_nan_alone_never_saw_data_either() -> None:
    (finding,) = no_range(collect(torch.full((3,), float("nan"))))
    assert finding.text == "All 3 values were NaN or infinite."


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "All 4 values are exactly 0"), (0.25, "All 4 values are 0.25")]
)
def test_a_tensor_of_one_value_is_dead(value: float, words: str) -> None:
    assert found(torch.full((4,), value)) == [
        Finding(
            "dead tensor",
            f"{words}: the tensor carries no information.",
            "Look at the op that makes it; no range can help or harm.",
        )
    ]


def test_an_outlier_is_named_with_what_a_narrower_range_wins() -> None:
    (finding,) = found(torch.cat([bell(), torch.tensor([40.0])]))
    assert finding.kind == "outlier tail"
    assert finding.calibrator == "mse"
    assert finding.text == (
        "Outlier tail: the largest magnitude 40 is 10.3 times the 99.99th percentile 3.879; with "
        "max it sets the step for all values."
    )
    assert finding.remedy == "Use mse: SQNR 24.0 dB instead of 20.9 dB with max (+3.1 dB)."


def test_a_wide_channel_is_named_with_the_codes_it_leaves_the_others() -> None:
    x = bell(64_000).clamp(-2, 2).reshape(4000, 16)
    x[:, 5] *= 10
    (finding,) = found(x, channel_dim=1)
    assert finding.kind == "one wide channel"
    assert finding.calibrator is None
    assert finding.text == (
        "One wide channel: channel 5 reaches 20, the median channel 2 (10.0 times less), so most "
        "channels have about 13 codes a side."
    )


@pytest.mark.parametrize(
    ("x", "name"),
    [
        (torch.nn.functional.silu(4 * bell()), " after SiLU"),
        (torch.nn.functional.gelu(2 * bell()), " after GELU"),
        (torch.nn.functional.hardswish(3 * bell()), " after hard-swish"),
        (torch.where(bell() < 0, bell().clamp(min=-0.1), 3 * bell()), ""),
    ],
    ids=["silu", "gelu", "hard-swish", "another"],
)
def test_a_small_negative_side_wastes_half_of_a_symmetric_grid(x: Tensor, name: str) -> None:
    finding = next(one for one in found(x) if one.kind == "one-sided")
    assert finding.text.startswith(f"One-sided{name}: values go from -")
    used = int(finding.text.split("uses ")[1].split(" of its 256 codes.")[0])
    assert 128 < used < 145


def test_a_grid_with_a_zero_point_wastes_nothing_on_one_sided_values() -> None:
    kinds = [one.kind for one in found(torch.nn.functional.silu(4 * bell()), Grid(symmetric=False))]
    assert "one-sided" not in kinds


def test_entropy_is_warned_of_where_one_bin_holds_half_of_the_values() -> None:
    # half black background, half picture: what an image looks like after normalising
    x = torch.cat([torch.full((50_000,), -0.8), torch.linspace(-0.8, 2.0, 50_000)])
    (finding,) = found(x)
    assert finding.kind == "entropy misled"
    assert finding.calibrator == "mse"
    assert "50 % of the values share one of 8,192 bins, and its divergence sees" in finding.text


def test_one_scale_for_very_different_channels_is_ruinous() -> None:
    w = bell(4 * 9).reshape(4, 9).clamp(-1, 1)
    w[0] *= 100
    w[1:, 0] = 1.0
    cost = weight_cost(w, bits=8, axis=0)
    assert cost.codes.tolist() == [127.0, 1.0, 1.0, 1.0]
    (finding,) = diagnose_weight(cost)
    assert finding.kind == "per tensor ruinous"
    assert finding.text.endswith(
        "Channel 0 reaches 100, channel 1 only 1; 3 of 4 channels would have fewer than 8 codes a "
        "side."
    )
    assert finding.remedy == "Keep one scale per channel, as the recipe does."


def test_a_recipe_with_one_scale_is_told_to_change() -> None:
    w = torch.tensor([[127.0, 0.3], [0.3, 0.1]])
    (finding,) = diagnose_weight(weight_cost(w, bits=8, axis=0), per_channel=False)
    assert finding.text.startswith("One scale for the whole weight loses ")
    assert finding.remedy == "Use one scale per channel, or leave this op in float."


def test_channels_of_one_size_need_no_scale_of_their_own() -> None:
    cost = weight_cost(torch.tensor([[1.0, 0.3], [0.2, -1.0]]), bits=8, axis=0)
    assert cost.loss_db == pytest.approx(0)
    assert diagnose_weight(cost) == ()


def test_a_small_channel_starves_without_the_whole_noticing() -> None:
    cost = weight_cost(torch.tensor([[127.0, 0.3], [0.3, 0.1], [0.0, 0.0]]), bits=8, axis=0)
    assert cost.loss_db < 6
    (finding,) = diagnose_weight(cost)
    assert "; 1 of 3 channels would have fewer than 8 codes a side." in finding.text


def test_a_weight_that_both_ways_hold_exactly_loses_nothing() -> None:
    cost = weight_cost(torch.tensor([[127.0], [64.0]]), bits=8, axis=0)
    assert (cost.per_tensor_db, cost.loss_db) == (float("inf"), 0.0)
