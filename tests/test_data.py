"""Data: the same samples in the same order, whatever they came as."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from qviz import data as data_module
from qviz.data import Batch, Data, as_data, overlap
from qviz.errors import DataError

X = torch.arange(10 * 3 * 2 * 2, dtype=torch.float32).reshape(10, 3, 2, 2)
Y = torch.arange(10)


class Images(Dataset[tuple[Tensor, int]]):
    """Has ``len()`` and ``[]`` only, and wraps around like some datasets do."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index % len(X)], int(Y[index % len(X)])


class Stream(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter(zip(X, Y.tolist(), strict=True))


class SizedStream(Stream):
    def __len__(self) -> int:
        return 10


class Loader:
    """Iterable of batches that can be walked again, as people write them by hand."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, 10, 4):
            yield X[start : start + 4], Y[start : start + 4]


SOURCES: dict[str, object] = {
    "tensors": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=3),
    "loader of samples": DataLoader(TensorDataset(X, Y), batch_size=None),
    "dataset": TensorDataset(X, Y),
    "dataset without iterator": Images(),
    "stream": Stream(),
    "stream with a length": SizedStream(),
    "list of samples": [(X[i], int(Y[i])) for i in range(10)],
    "list of array samples": [(X[i].numpy(), np.int64(i)) for i in range(10)],
    "tuple of samples": tuple((X[i], Y[i]) for i in range(10)),
    "two batches as a tuple": ((X[:7], Y[:7]), (X[7:], Y[7:])),
    "list of batches": [(X[:7], Y[:7]), (X[7:], Y[7:])],
    "batches with labels as a list": [(X[:7], Y[:7].tolist()), (X[7:], Y[7:].tolist())],
    "iterable of batches": Loader(),
    "ready batches": [Batch((X[:1],), {}, Y[:1], 1), Batch((X[1:],), {}, Y[1:], 9)],
}


def everything(data: Data, size: int = 4) -> tuple[Tensor, Tensor | None]:
    batches = list(data.batches(size))
    targets = [b.targets for b in batches if b.targets is not None]
    return torch.cat([b.args[0] for b in batches]), torch.cat(targets) if targets else None


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_every_kind_of_source_gives_the_same_samples_and_digests(source: object) -> None:
    data = as_data(source, "data")
    x, y = everything(data)
    assert torch.equal(x, X)
    assert y is not None
    assert torch.equal(y, Y)
    assert data.count == 10
    assert data.digest == as_data((X, Y), "other name").digest
    assert data.sample_digests == as_data((X, Y), "other name").sample_digests


@given(cuts=st.sets(st.integers(1, 9)), size=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_batches_have_the_size_asked_for_however_the_source_was_cut(
    cuts: set[int], size: int
) -> None:
    edges = [0, *sorted(cuts), 10]
    pieces = [(X[a:b], Y[a:b]) for a, b in itertools.pairwise(edges)]
    data = as_data(iter(pieces), "data")
    batches = list(data.batches(size))
    assert [b.size for b in batches] == [len(part) for part in X.split(size)]
    assert torch.equal(torch.cat([b.args[0] for b in batches]), X)


def test_a_second_pass_gives_the_same() -> None:
    data = as_data(((X[i : i + 3], Y[i : i + 3]) for i in range(0, 9, 3)), "data")
    assert torch.equal(everything(data)[0], everything(data)[0])
    assert data.count == 9


def test_a_shuffling_loader_keeps_the_order_of_its_first_pass() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True)
    data = as_data(loader, "data")
    assert torch.equal(everything(data)[0], everything(data)[0])


def test_a_generator_that_reuses_its_buffer_is_copied() -> None:
    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        x, y = np.zeros((1, 2), np.float32), np.zeros(1, np.int64)
        for i in range(3):
            x[:], y[:] = i, i
            yield x, y

    x, y = everything(as_data(batches(), "data"))
    assert x.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert y is not None
    assert y.tolist() == [0, 1, 2]


def test_samples_in_a_list_are_not_copied() -> None:
    batch = next(as_data([(X[0], 0)], "data").batches(1))
    assert batch.args[0].data_ptr() == X.data_ptr()


def test_inputs_can_be_keywords() -> None:
    samples = [({"ids": torch.tensor([i, i]), "mask": torch.ones(2)}, float(i)) for i in range(3)]
    (batch,) = as_data(samples, "data").batches(8)
    assert batch.args == ()
    assert batch.kwargs["ids"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch.targets is not None
    assert batch.targets.dtype == torch.float64
    assert batch.size == 3


def test_inputs_can_be_several_arguments() -> None:
    (batch,) = as_data([((X, X[:, :1]), Y)], "data").batches(10)
    assert [a.shape[1] for a in batch.args] == [3, 1]


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        pytest.param([X[0], X[1]], (2, 3, 2, 2), id="a list gives samples"),
        pytest.param(iter([X, X]), (20, 3, 2, 2), id="a generator gives batches"),
        pytest.param(X, (10, 3, 2, 2), id="a tensor is all samples"),
        pytest.param(DataLoader(TensorDataset(X), 4), (10, 3, 2, 2), id="a loader gives batches"),
        pytest.param(TensorDataset(X), (10, 3, 2, 2), id="a dataset gives samples"),
        pytest.param([(X, None)], (1, 10, 3, 2, 2), id="None is no target"),
    ],
)
def test_inputs_alone(source: object, shape: tuple[int, ...]) -> None:
    data = as_data(source, "data")
    (batch,) = data.batches(100)
    assert batch.args[0].shape == shape
    assert batch.targets is None
    assert not data.labelled


def test_whole_inputs_by_keyword() -> None:
    (batch,) = as_data({"ids": Y, "mask": torch.ones(10)}, "data").batches(10)
    assert list(batch.kwargs) == ["ids", "mask"]


def test_a_mask_as_target_belongs_to_one_sample() -> None:
    masks = [(torch.zeros(3, 4, 5), torch.zeros(4, 5, dtype=torch.int64))] * 2
    (batch,) = as_data(masks, "data").batches(2)
    assert batch.targets is not None
    assert batch.targets.shape == (2, 4, 5)


def test_a_dataset_gives_samples_even_if_the_target_is_as_long_as_the_input() -> None:
    pairs = TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3))
    (batch,) = as_data(pairs, "data").batches(2)
    assert batch.args[0].shape == (2, 3, 4, 4)


def test_head_takes_the_first_samples_and_reads_no_more() -> None:
    read = []

    class Counting(Images):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            read.append(index)
            return super().__getitem__(index)

    head = as_data(Counting(), "data").head(3)
    assert torch.equal(everything(head)[0], X[:3])
    assert read == [0, 1, 2]
    assert head.head(2).count == 2
    assert head.head(8).count == 3


def test_head_of_data_that_was_walked_walks_no_more() -> None:
    data = as_data(Loader(), "data")
    assert data.count == 10
    assert data.head(5).digest == as_data((X[:5], Y[:5]), "data").digest


def test_overlap_counts_shared_samples() -> None:
    calibration = as_data((X[:6], Y[:6]), "calibration")
    evaluation = as_data(((X[4:] * 1.0), Y[4:] + 100), "evaluation")
    assert overlap(calibration, evaluation) == 2
    assert overlap(calibration, as_data((X[6:], Y[6:]), "evaluation")) == 0


def test_digest_depends_on_inputs_targets_and_order() -> None:
    sources = ((X, Y), (X + 1, Y), (X, Y + 1), (X.flip(0), Y.flip(0)), (X, None), X.half())
    assert len({as_data(source, "data").digest for source in sources}) == 6


def test_digest_does_not_depend_on_memory_layout() -> None:
    strided = X.to(memory_format=torch.channels_last)
    assert as_data((strided, Y), "data").digest == as_data((X, Y), "data").digest


def test_as_data_gives_data_back() -> None:
    data = as_data((X, Y), "data")
    assert as_data(data, "other") is data


def test_a_source_too_large_to_keep_is_walked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "KEEP_BYTES", 100)
    data = as_data(Loader(), "data")
    assert torch.equal(everything(data)[0], X)
    assert torch.equal(everything(data)[0], X)


def test_bfloat16_and_scalar_samples_have_digests() -> None:
    assert as_data(X.bfloat16(), "data").count == 10
    assert as_data([(torch.tensor(1.0), 0), (torch.tensor(2.0), 1)], "data").count == 2


WRONG: dict[str, tuple[object, str]] = {
    "empty list": ([], "data: it has no samples. Give at least one."),
    "empty tensors": ((X[:0], Y[:0]), "data: it has no samples. Give at least one."),
    "number": (
        3,
        "data: an object of type int is not a source of samples. "
        "Give a DataLoader, a Dataset, or a list of (inputs, target).",
    ),
    "path": (
        "calib/",
        "data: an object of type str is not a source of samples. "
        "Give a DataLoader, a Dataset, or a list of (inputs, target).",
    ),
    "other shape": (
        [(X[0], 0), (X[1], 1), (X[2, :, :1], 2)],
        "data: input 0 of sample 2 has shape (3, 1, 2), of sample 0 (3, 2, 2). "
        "Resize, crop or pad all samples to one shape.",
    ),
    "other target shape": (
        [(X[0], torch.zeros(4, 5)), (X[1], torch.zeros(4, 6))],
        "data: the target of sample 1 has shape (4, 6), of sample 0 (4, 5). "
        "Resize, crop or pad all samples to one shape.",
    ),
    "other dtype": (
        [(X[0], 0), (X[1].double(), 1)],
        "data: input 0 of sample 1 is float64, of sample 0 float32. Give all samples one dtype.",
    ),
    "other inputs": (
        [({"a": X[0]}, 0), ({"b": X[0]}, 1)],
        "data: sample 1 has the inputs b, sample 0 a. Give every sample the same inputs.",
    ),
    "target missing": (
        [(X[0], 0), (X[1], None)],
        "data: sample 0 has a target, sample 1 has none. "
        "Give a target with every sample or with none.",
    ),
    "too few targets": (
        [(X, Y), (X, Y[:7])],
        "data, item 1: 7 targets for 10 samples. Give one target per sample; single samples with "
        "a vector as target belong in a torch.utils.data.Dataset, whose items are always single "
        "samples.",
    ),
    "too few targets in all": (
        (X, Y[:7]),
        "data: 7 targets for 10 samples. Give one target per sample; single samples with a vector "
        "as target belong in a torch.utils.data.Dataset, whose items are always single samples.",
    ),
    "unequal inputs": (
        iter([((X, X[:4]), Y)]),
        "data, item 0: input 1 has 4 samples and input 0 has 10. "
        "Give every input of a batch the same number of samples.",
    ),
    "number as batch": (
        iter([torch.tensor(1.0)]),
        "data, item 0: input 0 is a single number where a batch was expected. "
        "Stack the samples along a first axis.",
    ),
    "NaN": (
        [(X[0], 0), (X[1] * float("nan"), 1)],
        "data: input 0 of sample 1 contains NaN. Repair or leave out that sample.",
    ),
    "Inf": (
        {"x": torch.cat([X, X / 0])},
        "data: x of sample 10 contains NaN. Repair or leave out that sample.",
    ),
    "three values": (
        [(X[0], X[1], 0)],
        "data, item 0: it is a tuple of 3 values, not (inputs, target). "
        "Give several inputs as one tuple: ((first, second), target), with None for no target.",
    ),
    "text": (
        [("a text", 1)],
        "data, item 0: the input is a str, not a dense tensor. "
        "Convert it to a float or integer tensor first.",
    ),
    "objects": (
        [(np.array([None]), 1)],
        "data, item 0: the input is a NumPy array of dtype object, not a dense tensor. "
        "Convert it to a float or integer tensor first.",
    ),
    "sparse": (
        [(X[0].to_sparse(), 1)],
        "data, item 0: the input is a tensor of layout torch.sparse_coo, not a dense tensor. "
        "Convert it to a float or integer tensor first.",
    ),
    "boxes": (
        [(X[0], {"boxes": X[0]})],
        "data, item 0: the target is a dict, not a number or a tensor. "
        "Give (inputs, target) with a number or tensor as target, or None for no target.",
    ),
}


@pytest.mark.parametrize(("source", "text"), WRONG.values(), ids=WRONG.keys())
def test_data_that_cannot_be_used_is_refused_by_name(source: object, text: str) -> None:
    with pytest.raises(DataError) as caught:
        list(as_data(source, "data").batches(4))
    assert str(caught.value) == text


def test_an_infinite_value_is_told_from_nan() -> None:
    with pytest.raises(DataError, match=r"input 0 of sample 0 contains Inf"):
        _ = as_data(torch.full((1, 2), torch.inf), "data").count


def test_an_exception_in_the_source_names_the_item() -> None:
    def batches() -> Iterator[Tensor]:
        yield X
        raise OSError("no such disk")

    with pytest.raises(DataError) as caught:
        as_data(batches(), "data")
    assert str(caught.value) == (
        "data: reading item 1 raised OSError: no such disk. Correct the data source."
    )


def test_a_large_source_that_does_not_repeat_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data_module, "KEEP_BYTES", 100)

    class Augmented:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([(X[:4], Y[:4]), (torch.rand(6, 3, 2, 2), Y[4:])])

    data = as_data(Augmented(), "data")
    with pytest.raises(DataError) as caught:
        list(data.batches(4))
    assert str(caught.value) == (
        "data: a second pass gave other samples than the first, from sample 4 on. "
        "Turn off shuffling and random augmentation, or give fewer samples."
    )


def test_a_generator_too_large_to_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "ONE_SHOT_BYTES", 100)
    with pytest.raises(DataError) as caught:
        as_data(iter([X]), "data")
    assert str(caught.value) == (
        "data: a generator can be walked only once, and this one gives more than "
        "9.31323e-08 GiB. Give a DataLoader or a Dataset, which can be walked again."
    )


@pytest.mark.parametrize("call", ["batches", "head"])
def test_counts_below_one_are_refused(call: str) -> None:
    data = as_data((X, Y), "data")
    with pytest.raises(DataError) as caught:
        getattr(data, call)(0)
    assert str(caught.value) in (
        "data: batch size 0 is below 1. Give 1 or more.",
        "data: 0 samples are none. Ask for 1 or more.",
    )


def test_data_is_shown_by_its_name() -> None:
    assert repr(as_data((X, Y), "calib/")) == "Data('calib/')"
