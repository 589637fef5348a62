"""Calibration and evaluation data: whatever the user has, as the same samples in the same order.

``as_data`` takes a DataLoader, a Dataset, a list, a generator or plain tensors (``collate.py`` says
what is a sample and what a batch) and gives a ``Data``, which can be walked any number of times in
batches of any size. How the source was batched does not matter afterwards.

Every pass gives the same samples in the same order, because scores of two models are compared
sample by sample. The first use walks the source once: it checks every sample, takes a digest of
each and keeps the samples in memory up to ``KEEP_BYTES``. A source larger than that is walked again
on each pass and must then repeat itself, which is checked; so a small shuffling loader works, a
large one is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from qviz.collate import Batch, concatenate, is_arrays, reading_of, to_batch
from qviz.errors import DataError, QvizError
from qviz.scan import check_alike, check_finite, digests_of, update

__all__ = ["KEEP_BYTES", "ONE_SHOT_BYTES", "Batch", "Data", "as_data", "overlap"]

#: Sources up to this size are kept in memory after the first pass.
KEEP_BYTES = 1 << 30
#: A generator can be walked only once, so it is kept whole; one larger than this is refused.
ONE_SHOT_BYTES = 4 << 30


@dataclass(frozen=True)
class _Scan:
    """What the first pass found: digests of all samples, and the samples if they fit in memory."""

    sample_digests: tuple[str, ...]
    targets_digest: str
    labelled: bool
    kept: tuple[Batch, ...] | None


class Data:
    """Samples that can be walked again and again, in batches of any size. Made by ``as_data``.

    Attributes:
        name: what messages and reports call it.
    """

    def __init__(self, name: str, source: Iterable[object], *, limit: int | None = None) -> None:
        self.name = name
        self._source = source
        self._limit = limit
        self._reading = reading_of(source)

    def __repr__(self) -> str:
        return f"Data({self.name!r})"

    @property
    def count(self) -> int:
        """Number of samples. Walks the source on first use."""
        return len(self._scan.sample_digests)

    @property
    def labelled(self) -> bool:
        """Whether the samples have targets. Walks the source on first use."""
        return self._scan.labelled

    @property
    def sample_digests(self) -> tuple[str, ...]:
        """One digest per sample, of its inputs' names, dtypes, shapes and bytes; not its target."""
        return self._scan.sample_digests

    @cached_property
    def digest(self) -> str:
        """Digest of all inputs and targets in their order; the name does not count."""
        whole = hashlib.blake2b(digest_size=16)
        for part in (*self._scan.sample_digests, self._scan.targets_digest):
            whole.update(part.encode())
        return whole.hexdigest()

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, ``size`` at a time; only the last batch may be smaller.

        Args:
            size: samples per batch, at least 1.

        Raises:
            DataError: the size is below 1, a sample cannot be used, or a source too large to keep
                in memory did not repeat itself.
        """
        if size < 1:
            raise DataError(self.name, f"batch size {size} is below 1", "Give 1 or more")
        return _rebatched(self._chunks(), size)

    def head(self, count: int) -> Data:
        """The first ``count`` samples (all of them if there are fewer); reads no more than those.

        Raises:
            DataError: the count is below 1.
        """
        if count < 1:
            raise DataError(self.name, f"{count} samples are none", "Ask for 1 or more")
        limit = count if self._limit is None else min(count, self._limit)
        scan = self.__dict__.get("_scan")
        if isinstance(scan, _Scan) and scan.kept is not None:
            head = Data(self.name, _Kept(scan.kept), limit=limit)
        else:
            head = Data(self.name, self._source, limit=limit)
            head._reading = self._reading
        return head

    @cached_property
    def _scan(self) -> _Scan:
        digests: list[str] = []
        targets = hashlib.blake2b(digest_size=16)
        first: Batch | None = None
        kept: list[Batch] | None = []
        in_memory = isinstance(self._source, list | tuple)
        held = 0
        for chunk in self._read():
            first = first or chunk
            check_alike(chunk, first, self.name, len(digests))
            check_finite(chunk, self.name, len(digests))
            digests.extend(digests_of(chunk))
            if chunk.targets is not None:
                update(targets, chunk.targets)
            held += 0 if in_memory else chunk.nbytes
            if held > KEEP_BYTES:
                kept = None
            elif kept is not None:
                kept.append(chunk if in_memory else chunk.copy())
        if first is None:
            raise DataError(self.name, "it has no samples", "Give at least one")
        labelled = first.targets is not None
        return _Scan(
            tuple(digests),
            targets.hexdigest() if labelled else "",
            labelled,
            None if kept is None else tuple(kept),
        )

    def _read(self) -> Iterator[Batch]:
        """The source's items as batches, cut off at the limit."""
        left = self._limit
        for index, item in enumerate(_guarded(self._source, self.name)):
            if isinstance(item, Batch):
                chunk = item
            else:
                chunk = to_batch(item, self._reading, f"{self.name}, item {index}")
            if left is not None:
                chunk = chunk.rows(0, left)
                left -= chunk.size
            if chunk.size:
                yield chunk
            if left == 0:
                return

    def _chunks(self) -> Iterator[Batch]:
        """All samples again: from memory, or from the source if it repeats itself."""
        if self._scan.kept is not None:
            yield from self._scan.kept
            return
        seen = 0
        for chunk in self._read():
            if digests_of(chunk) != list(self._scan.sample_digests[seen : seen + chunk.size]):
                break
            seen += chunk.size
            yield chunk
        if seen != self.count:
            raise DataError(
                self.name,
                f"a second pass gave other samples than the first, from sample {seen} on",
                "Turn off shuffling and random augmentation, or give fewer samples",
            )


class _Kept(tuple[Batch, ...]):
    """Samples that are in memory already and belong to us."""

    __slots__ = ()


def as_data(source: object, name: str) -> Data:
    """View any source of samples as ``Data``.

    Args:
        source: a DataLoader, a Dataset, a list of samples or any iterable of samples or batches
            (see ``collate.py``); ``(inputs, targets)`` as a tuple of whole arrays; or inputs alone
            as one tensor or dict of tensors. A ``Data`` is returned as it is.
        name: what messages call it, ``calibration data``.

    Raises:
        DataError: it is none of these. Whether the samples themselves can be used is found out on
            first use.
    """
    if isinstance(source, Data):
        return source
    whole = _whole(source, name)
    if whole is not None:
        return Data(name, _Kept([whole]))
    if not isinstance(source, str | bytes) and not hasattr(source, "__iter__"):
        if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
            return Data(name, _Indexed(source))
    elif not isinstance(source, str | bytes):
        return _walked(cast("Iterable[object]", source), name)
    raise DataError(
        name,
        f"an object of type {type(source).__name__} is not a source of samples",
        "Give a DataLoader, a Dataset, or a list of (inputs, target)",
    )


def _walked(source: Iterable[object], name: str) -> Data:
    if isinstance(source, Iterator):
        return Data(name, _Kept(_exhaust(source, name)))
    indexed = isinstance(source, Dataset) and not isinstance(source, IterableDataset)
    return Data(name, _Indexed(source) if indexed else source)


def overlap(a: Data, b: Data) -> int:
    """How many samples of ``b`` have the same inputs as some sample of ``a``; 0 is as it should be.

    Calibrating on the samples one evaluates on makes the score too good.
    """
    known = set(a.sample_digests)
    return sum(digest in known for digest in b.sample_digests)


class _Indexed(Dataset[object]):
    """Walks an object that has ``len()`` and ``[]`` but no iterator; its items are samples."""

    def __init__(self, source: object) -> None:
        self._source = cast("Dataset[object]", source)

    def __getitem__(self, index: int) -> object:
        return self._source[index]

    def __iter__(self) -> Iterator[object]:
        # Explicitly by length: Python's own protocol waits for an IndexError, and many datasets
        # wrap around or raise something else.
        for index in range(len(self._source)):  # type: ignore[arg-type]
            yield self._source[index]


def _whole(source: object, name: str) -> Batch | None:
    """The one batch that ``source`` is, if it is plain arrays."""
    inputs, targets = source, None
    if isinstance(source, tuple) and len(source) == 2:
        inputs, targets = source
        if not (targets is None or isinstance(targets, Tensor | np.ndarray)):
            return None
    elif isinstance(source, tuple):
        return None
    return to_batch((inputs, targets), "batches", name) if is_arrays(inputs) else None


def _exhaust(source: Iterable[object], name: str) -> list[Batch]:
    """Everything a one-shot iterator gives, copied because it may reuse its buffers."""
    kept: list[Batch] = []
    held = 0
    for index, item in enumerate(_guarded(source, name)):
        kept.append(to_batch(item, "mostly batches", f"{name}, item {index}").copy())
        held += kept[-1].nbytes
        if held > ONE_SHOT_BYTES:
            raise DataError(
                name,
                f"a generator can be walked only once, and this one gives more than "
                f"{ONE_SHOT_BYTES / 2**30:g} GiB",
                "Give a DataLoader or a Dataset, which can be walked again",
            )
    return kept


def _guarded(source: Iterable[object], name: str) -> Iterator[object]:
    """The items of the user's source; what it raises becomes an error that names the item."""
    index = 0
    try:
        for item in source:
            yield item
            index += 1
    except (QvizError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(
            name,
            f"reading item {index} raised {type(error).__name__}: {error}",
            "Correct the data source",
        ) from error


def _rebatched(chunks: Iterator[Batch], size: int) -> Iterator[Batch]:
    waiting: list[Batch] = []
    held = 0
    for chunk in chunks:
        start = 0
        while chunk.size - start >= size - held:
            stop = start + size - held
            yield concatenate([*waiting, chunk.rows(start, stop)])
            waiting, held, start = [], 0, stop
        if start < chunk.size:
            waiting.append(chunk.rows(start, chunk.size))
            held += chunk.size - start
    if waiting:
        yield concatenate(waiting)
