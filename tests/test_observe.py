"""Observation: the same histograms, to the bit, however the samples came."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from networks import NETWORKS, batch, inputs, made, network, program
from torch import Tensor, nn

from qviz.capture import capture
from qviz.data import Data, as_data
from qviz.errors import DataError, NotFiniteError
from qviz.execute import Program
from qviz.histogram import Histogram
from qviz.observe import observe
from qviz.progress import Progress

COUNT = 37  # no multiple of the chunk


def same(a: dict[str, Histogram], b: dict[str, Histogram]) -> bool:
    """Bit equal, every field of every histogram."""
    return list(a) == list(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)
        for x, y in ((a[name].to_arrays(), b[name].to_arrays()) for name in a)
    )


def shuffled(x: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    order = torch.randperm(len(x[0]), generator=torch.Generator().manual_seed(seed))
    return tuple(t[order] for t in x)


def in_batches(x: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Iterator[tuple[object, None]]:
    start = 0
    while start < len(x[0]):
        for size in sizes:
            part = tuple(t[start : start + size] for t in x)
            if len(part[0]):
                yield (part if len(part) > 1 else part[0]), None
            start += size


def observed(name: str, data: object, *, chunk: int = 8, workers: int = 1) -> dict[str, Histogram]:
    return observe(program(name), as_data(data, "data"), chunk=chunk, workers=workers)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_order_of_the_samples_does_not_matter(name: str) -> None:
    x = inputs(name, COUNT)
    want = observed(name, (x, None))
    for seed in range(3):
        assert same(observed(name, (shuffled(x, seed), None)), want)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sizes", [(1,), (5,), (COUNT,), (3, 11, 1)], ids=str)
def test_the_batches_of_the_source_do_not_matter(name: str, sizes: tuple[int, ...]) -> None:
    x = inputs(name, COUNT)
    batches = in_batches(x, sizes)
    assert same(observed(name, batches), observed(name, (x, None)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_does_not_matter(name: str, workers: int) -> None:
    x = inputs(name, COUNT)
    assert same(observed(name, (x, None), workers=workers), observed(name, (x, None)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_value_of_every_sample_is_counted_once(name: str) -> None:
    graph = network(name)[1]
    one = observed(name, (inputs(name, 1), None))
    for tensor, histogram in observed(name, (inputs(name, COUNT), None)).items():
        assert histogram.size == COUNT * one[tensor].size, tensor
    assert list(one) == list(graph.observed)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16])
def test_fewer_samples_than_a_chunk_and_whole_chunks_work_too(count: int) -> None:
    x = inputs("residual", count)
    found = observed("residual", (x, None))["x"]
    assert (found.size, found.min, found.max) == (
        x[0].numel(),
        float(x[0].min()),
        float(x[0].max()),
    )


def test_the_filling_of_the_last_chunk_is_not_counted() -> None:
    x = torch.cat([torch.zeros(8, 3, 8, 8), torch.full((1, 3, 8, 8), 5.0)])
    found = observed("residual", (x, None))["x"]
    assert (found.size, found.zeros, found.total) == (x.numel(), 8 * 192, 5.0 * 192)


def test_ranges_per_channel_ride_along() -> None:
    x = inputs("residual", COUNT)
    found = observed("residual", (x, None), workers=3)["x"]
    assert found.channel_min is not None
    assert found.channel_max is not None
    assert torch.equal(found.channel_min, x[0].amin((0, 2, 3)))
    assert torch.equal(found.channel_max, x[0].amax((0, 2, 3)))


def test_what_is_observed_is_what_a_run_computes() -> None:
    x = inputs("residual", 8)
    prog = program("residual")
    values = prog.inputs(batch(*x))
    prog.run(values, keep=True)
    for tensor, histogram in observed("residual", (x, None)).items():
        value = values[prog.slot_of_tensor[tensor]]
        assert (histogram.min, histogram.max) == (float(value.min()), float(value.max())), tensor


def test_a_matrix_of_all_samples_against_all_is_observed_sample_by_sample() -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            return (y @ y.t()).exp() @ y

    prog = Program(capture(made(Gram()), batch(torch.randn(2, 6))))
    x = torch.randn(11, 6)
    found = observe(prog, as_data((x, None), "data"), chunk=4)
    assert found["exp"].size == 11
    assert same(found, observe(prog, as_data((x.flip(0), None), "data"), chunk=4))


def test_progress_counts_samples() -> None:
    told: list[Progress] = []
    data = as_data((inputs("residual", 20), None), "calibration data")
    observe(program("residual"), data, chunk=8, workers=1, progress=told.append)
    assert [(p.verb, p.done, p.total) for p in told] == [
        ("calibrate", 8, 20),
        ("calibrate", 16, 20),
        ("calibrate", 20, 20),
    ]
    assert {p.message for p in told} == {"calibration data"}


# what goes wrong


def test_nothing_is_left_behind_after_an_exception() -> None:
    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        raise StopError

    x = inputs("residual", COUNT)
    prog = Program(network("residual")[1])
    before = dict(vars(prog))
    threads = threading.active_count()
    with pytest.raises(StopError):
        observe(prog, as_data((x, None), "data"), chunk=8, workers=3, progress=stop)
    assert threading.active_count() == threads
    assert vars(prog) == before
    assert torch.is_grad_enabled()
    again = observe(prog, as_data((x, None), "data"), chunk=8, workers=3)
    assert same(again, observed("residual", (x, None)))


class Logs(nn.Module):
    """NaN wherever the first layer gives a negative value, Inf where it gives 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.second(self.first(x).log()).repeat(1, 2)[:, :6])
        return out


@pytest.mark.parametrize("value", [-1.0, 0.0], ids=["NaN", "Inf"])
def test_the_first_tensor_that_is_not_finite_is_named(value: float) -> None:
    model = Logs()
    with torch.no_grad():
        model.first.weight.copy_(torch.eye(6))
    prog = Program(capture(model, batch(torch.ones(2, 6))))
    x = torch.ones(5, 6)
    x[3, :2] = value
    with pytest.raises(NotFiniteError) as caught:
        observe(prog, as_data((x, None), "data"))
    assert str(caught.value) == (
        "tensor log: 2 of 30 values are NaN or infinite in the float model. "
        "Find the op that makes them; a range needs finite values."
    )


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError) as caught:
        observe(program("residual"), Data("calibration data", []))
    assert str(caught.value) == "calibration data: it has no samples. Give at least one."


def test_a_model_without_anything_to_quantize_is_refused_before_it_runs() -> None:
    prog = Program(capture(nn.Sequential(nn.ReLU()), batch(torch.randn(2, 6))))
    with pytest.raises(DataError) as caught:
        observe(prog, as_data((torch.randn(3, 7), None), "data"))
    assert str(caught.value) == (
        "Sequential: it has no op that int8 arithmetic exists for. "
        "Look at its coverage with qviz info."
    )
