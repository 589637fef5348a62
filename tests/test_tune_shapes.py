"""Every method on models whose outputs are not class scores, down to one number per sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import qviz
from qviz.auto_ends import recipe_for
from qviz.errors import TuneError
from qviz.session import Session
from qviz.tune.methods import METHODS
from qviz.tune.qat_options import QATOptions


class Net(nn.Module):
    """Two layers and what ``last`` makes of the second one's four channels."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 4)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.norm(torch.relu(self.first(x)))))


LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "one number": lambda y: y.mean(-1),
    "a sum of numbers": lambda y: y[:, 0] + y[:, 1],
    "rows of one number": lambda y: y[..., None],
}


@pytest.fixture(scope="module", params=LAST)
def session(request: pytest.FixtureRequest) -> Session:
    torch.manual_seed(0)
    model = Net(LAST[request.param])
    calibration, evaluation = (
        [(x, model(x).detach()) for x in torch.randn(4, 16, 6)] for _ in range(2)
    )
    made = qviz.open(model, calibration, evaluation, "mse", training=calibration)
    made.calibrate()
    return made


@pytest.mark.parametrize("name", [name for name in METHODS if name != "qat"])
def test_a_method_runs_or_says_why_it_does_not(session: Session, name: str) -> None:
    start = recipe_for(session, "max", weight_bits=3, activation_bits=4, ends_at_8=False)
    try:
        made = session.tune(name, start)
    except TuneError:
        assert name in ("gelu_clip", "equalization", "statistics", "codebook", "nuq")
        return
    assert made.after is not None
    assert made.after.divergence > 0


def test_it_is_trained_towards_float(session: Session) -> None:
    start = recipe_for(session, "max", weight_bits=3, activation_bits=4, ends_at_8=False)
    made = session.qat(start, QATOptions(schedule_epochs=10, distill=1.0))
    assert made.after is not None
    assert made.after.divergence > 0
