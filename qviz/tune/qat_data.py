"""Training samples in a new order each epoch, and in the same order whenever asked again.

Split and order depend on the seed and the number of the epoch alone, so a run that was killed finds
its place again. A ``Data`` is split and shuffled here. A loader of the caller's shuffles and
augments by itself and is walked as it is, with the random numbers of torch, NumPy and Python seeded
per epoch.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from qviz.collate import Batch, concatenate, describe, reading_of, to_batch
from qviz.data import KEEP_BYTES, Data
from qviz.errors import TuneError
from qviz.scan import update

#: Samples that are kept together in memory.
CHUNK = 1024
#: Part of the samples kept in memory that held-out ones may take, where not all fit.
HELD_OUT_ROOM = 4


@dataclass(frozen=True, eq=False)
class Source:
    """Training and held-out samples.

    Attributes:
        name: what messages call the training data.
        samples: different samples of one epoch; None if a loader does not say.
        steps: batches of one epoch.
        held_out: samples that choose the epoch, in batches.
        epoch: the batches of epoch 1, 2, ...; the last may be smaller.
        labelled: whether the samples have targets; None if a loader has to be walked to know.
        foreign: the caller's code makes the batches, and may draw random numbers for it.
        warnings: what is doubtful.
    """

    name: str
    samples: int | None
    steps: int
    held_out: tuple[Batch, ...]
    epoch: Callable[[int], Iterator[Batch]]
    labelled: bool | None
    foreign: bool
    warnings: tuple[str, ...] = ()

    @property
    def held_out_samples(self) -> int:
        """How many samples choose the epoch."""
        return sum(b.size for b in self.held_out)


def split(
    data: Data,
    *,
    held_out: float,
    batch_size: int,
    seed: int,
    chooses: Data | None = None,
    keep: int = KEEP_BYTES,
) -> Source:
    """Samples to train on and samples held out, from one ``Data``.

    Args:
        data: the training data; shuffled as a whole if it fits in memory, else as it is read.
        held_out: part to hold out, 0 to below 1; at least one sample if it is not 0.
        batch_size: samples per step.
        seed: of the split and of every order.
        chooses: samples held out instead of a part of ``data``.
        keep: bytes of samples to keep in memory.

    Raises:
        TuneError: there are too few samples.
    """
    count = data.count
    held = max(1, round(count * held_out)) if held_out and chooses is None else 0
    given = () if chooses is None else tuple(chooses.batches(batch_size))
    if held >= count:
        are = "1 sample is" if count == 1 else f"{count} samples are"
        raise TuneError(
            data.name,
            f"{are} too few to train on some and hold others out",
            "Give more samples, or hold none out",
        )
    room = max(1, keep // max(1, next(data.batches(1)).nbytes))
    order = torch.randperm(count, generator=_generator(seed, 0))
    if count <= room:
        away, rest = order[:held].sort().values, order[held:].sort().values
        chunks = list(data.batches(CHUNK))

        def in_memory(epoch: int) -> Iterator[Batch]:
            mixed = rest[torch.randperm(len(rest), generator=_generator(seed, epoch))]
            for part in mixed.split(batch_size):
                yield _gathered(chunks, part.tolist())

        own = tuple(_gathered(chunks, p.tolist()) for p in away.split(batch_size) if held)
        steps = -(-len(rest) // batch_size)
        return Source(
            data.name, len(rest), steps, given or own, in_memory, data.labelled, foreign=False
        )

    gone = set(order[: min(held, max(1, room // HELD_OUT_ROOM))].tolist() if held else [])

    def streamed(epoch: int) -> Iterator[Batch]:
        rest = (b for i, b in enumerate(data.batches(1)) if i not in gone)
        yield from _grouped(_mixed(rest, room, _generator(seed, epoch)), batch_size)

    away_samples = (b.copy() for i, b in enumerate(data.batches(1)) if i in gone)
    warning = (
        f"{data.name}: too large to keep in memory, so it is shuffled within {room} samples at a "
        "time. Give it in mixed order, or train with a loader of your own"
    )
    left = count - len(gone)
    own = tuple(_grouped(away_samples, batch_size))
    steps = -(-left // batch_size)
    return Source(
        data.name, left, steps, given or own, streamed, data.labelled, foreign=False,
        warnings=(warning,),
    )  # fmt: skip


def walked(loader: Iterable[object], held_out: Data | None, batch_size: int) -> Source:
    """A loader of the caller's, left as it is.

    Args:
        loader: gives the batches of one epoch each time it is walked; has a length.
        held_out: samples that choose the epoch; None keeps the last one.
        batch_size: of the held-out samples.

    Raises:
        TuneError: the loader has no length.
    """
    name = "training loader"
    if not isinstance(loader, Sized) or len(loader) == 0:
        raise TuneError(
            f"{name} {type(loader).__name__}",
            "has no length, so the learning rate cannot be scheduled",
            "Give a DataLoader, a list of batches, or anything else with len()",
        )
    reading = reading_of(loader)

    def epoch(_: int) -> Iterator[Batch]:
        for index, item in enumerate(loader):
            yield item if isinstance(item, Batch) else to_batch(item, reading, f"{name}, {index}")

    dataset = getattr(loader, "dataset", None)
    samples = len(dataset) if isinstance(dataset, Sized) else None
    own = () if held_out is None else tuple(held_out.batches(batch_size))
    warnings = () if own else (f"{name}: no samples are held out, so the last epoch is kept",)
    return Source(name, samples, len(loader), own, epoch, None, foreign=True, warnings=warnings)


def fingerprint(source: Source, loader: Iterable[object] | None, seed: int) -> str:
    """Digest of the samples held out and of a loader's first batch, the same in every process.

    The batch is drawn with random numbers of the run, and a generator of the loader's own is put
    back. A loader that can be walked only once is not asked, for the batch would be gone.
    """
    digest, batches = hashlib.blake2b(digest_size=16), list(source.held_out)
    if loader is not None and not isinstance(loader, Iterator):
        before = [(g, g.get_state()) for g in _generators(loader)]
        with seeded(seed, 0):
            batches += islice(source.epoch(1), 1)
        for generator, state in before:
            generator.set_state(state)
    for batch in batches:
        targets = {} if batch.targets is None else {"targets": batch.targets}
        for name, tensor in {**batch.inputs, **targets}.items():
            digest.update(repr((name, describe(tensor))).encode())
            update(digest, tensor.detach())
    return digest.hexdigest()


def _generators(loader: object) -> list[torch.Generator]:
    """Random numbers that a ``DataLoader`` was given."""
    sampler = getattr(loader, "sampler", None)
    grouped = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    found = [getattr(holder, "generator", None) for holder in (loader, sampler, grouped)]
    return [g for g in found if isinstance(g, torch.Generator)]


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[None]:
    """Random numbers of torch, NumPy and Python for the caller's code, put back afterwards."""
    before = (random.getstate(), np.random.get_state())
    with torch.random.fork_rng(devices=[]):
        number = _number(seed, epoch)
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _number(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(_number(seed, epoch))


def _gathered(chunks: Sequence[Batch], positions: Sequence[int]) -> Batch:
    return concatenate([chunks[p // CHUNK].rows(p % CHUNK, p % CHUNK + 1) for p in positions])


def _grouped(samples: Iterable[Batch], size: int) -> Iterator[Batch]:
    waiting: list[Batch] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == size:
            yield concatenate(waiting)
            waiting = []
    if waiting:
        yield concatenate(waiting)


def _mixed(samples: Iterable[Batch], room: int, generator: torch.Generator) -> Iterator[Batch]:
    """The samples in mixed order, with at most ``room`` of them in memory."""
    held: list[Batch] = []
    for sample in samples:
        if len(held) < room:
            held.append(sample.copy())
            continue
        place = int(torch.randint(len(held), (1,), generator=generator))
        yield held[place]
        held[place] = sample.copy()
    for place in torch.randperm(len(held), generator=generator).tolist():
        yield held[place]
