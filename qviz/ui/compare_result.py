"""Two variants on the same samples: metrics, paired difference, and the answers that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qviz import records
from qviz.data import Data
from qviz.errors import DataError
from qviz.evaluate import Evaluation, Outputs, outputs
from qviz.intervals import Interval, mcnemar, paired_bootstrap, relative_change
from qviz.jobs import Job
from qviz.recipe import Recipe
from qviz.session import Session

#: Which answers are set side by side.
Pair = Literal["a and b", "a and float", "b and float"]
#: Samples per forward pass where outputs have to be made again.
BATCH = 32
#: An input with sides below this is numbers, not a picture.
SMALLEST = 8
#: Pictures are enlarged to about this many pixels.
PIXELS = 112


@dataclass(frozen=True, eq=False)
class Variant:
    """What is compared: a recipe under its name; None is the float model."""

    name: str
    recipe: Recipe | None


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered per sample.

    Attributes:
        a: predicted class of the first variant ``[n]``, None unless the model classifies.
        b: of the second.
        reference: of the float model.
        labels: the right class, None without labels.
        distance: mean squared difference of the outputs of a and b ``[n]``.
        distance_a: of a and float.
        distance_b: of b and float.
    """

    a: NDArray[np.int64] | None
    b: NDArray[np.int64] | None
    reference: NDArray[np.int64] | None
    labels: NDArray[np.int64] | None
    distance: NDArray[np.float64]
    distance_a: NDArray[np.float64]
    distance_b: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two variants measured on the same samples.

    Attributes:
        a: the first.
        b: the second.
        of_a: the first against float.
        of_b: the second against float.
        change: relative change of the metric from a to b.
        interval: 95 % paired bootstrap interval of it.
        p_value: McNemar's exact test that a and b are right equally often; None without labels
            or classes.
        answers: per sample.
    """

    a: Variant
    b: Variant
    of_a: Evaluation
    of_b: Evaluation
    change: float
    interval: Interval
    p_value: float | None
    answers: Answers

    def differing(self, pair: Pair) -> tuple[int, ...]:
        """Samples on which two answers differ, in order.

        Without classes no two outputs are equal: the samples come by how far they are apart.
        """
        found = self.answers
        sides = {
            "a and b": (found.a, found.b, found.distance),
            "a and float": (found.a, found.reference, found.distance_a),
            "b and float": (found.b, found.reference, found.distance_b),
        }
        one, other, distance = sides[pair]
        if one is None or other is None:
            order = np.argsort(-distance, kind="stable")
            return tuple(int(i) for i in order if distance[i] > 0)
        return tuple(int(i) for i in np.flatnonzero(one != other))


def work(session: Session, a: Variant, b: Variant) -> Callable[[Job], Comparison]:
    """Measure both, then compare; as a job."""

    def run(job: Job) -> Comparison:
        of_a = session.evaluate(a.recipe, progress=job.tell)
        of_b = session.evaluate(b.recipe, progress=job.tell)
        reference = session.reference(progress=job.tell)
        made = [_outputs(session, v.recipe, reference, job) for v in (a, b)]
        return compared(a, b, of_a, of_b, made[0], made[1], reference)

    return run


def compared(
    a: Variant,
    b: Variant,
    of_a: Evaluation,
    of_b: Evaluation,
    from_a: Tensor,
    from_b: Tensor,
    reference: Outputs,
) -> Comparison:
    """Compare what two variants gave on the same samples ``[n, ...]``."""
    values = reference.values
    labels = _labels(reference)
    one, other, float_ = (_classes(x) for x in (from_a, from_b, values))
    p_value = None
    if labels is not None and one is not None and other is not None:
        p_value = mcnemar(torch.from_numpy(one == labels), torch.from_numpy(other == labels))
    return Comparison(
        a=a,
        b=b,
        of_a=of_a,
        of_b=of_b,
        change=relative_change(of_b.value, of_a.value),
        interval=paired_bootstrap(of_b.scores, of_a.scores),
        p_value=p_value,
        answers=Answers(
            one,
            other,
            float_,
            labels,
            _distance(from_a, from_b),
            _distance(from_a, values),
            _distance(from_b, values),
        ),
    )


def _outputs(session: Session, recipe: Recipe | None, reference: Outputs, job: Job) -> Tensor:
    if recipe is None:
        return reference.values
    key = records.digest(recipe, records.graph_key(session.graph))
    stored = records.read_outputs(session.run, key)
    if stored is not None and stored.shape == reference.values.shape:
        return stored
    # too large to be kept
    simulator, data = session.simulator_of(recipe), session.evaluation_data
    if data is None:
        raise DataError("evaluation data", "are missing", "Open the model with some")
    edits = simulator.edits(recipe)
    made = outputs(simulator.program, data, edits, batch_size=BATCH, progress=job.tell)
    return made.values


def _classes(values: Tensor) -> NDArray[np.int64] | None:
    if values.dim() != 2 or values.shape[1] < 2:
        return None
    found: NDArray[np.int64] = values.argmax(1).cpu().numpy()
    return found


def _labels(reference: Outputs) -> NDArray[np.int64] | None:
    targets, values = reference.targets, reference.values
    if targets is None or targets.is_floating_point() or values.dim() != 2:
        return None
    flat = targets.reshape(len(targets), -1)
    found: NDArray[np.int64] = flat[:, 0].long().cpu().numpy()
    return found if flat.shape[1] == 1 else None


def _distance(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (
        (a.double() - b.double()).reshape(len(a), -1).square().mean(1).cpu().numpy()
    )
    return found


def inputs_at(data: Data, samples: Sequence[int]) -> dict[int, Tensor]:
    """The first input of some samples, by their place in the data."""
    wanted, found, start = sorted(samples), dict[int, Tensor](), 0
    for batch in data.batches(BATCH):
        first = next(iter(batch.inputs.values()))
        here = [i for i in wanted if start <= i < start + batch.size]
        found |= {i: first[i - start] for i in here}
        start += batch.size
        if not wanted or start > wanted[-1]:
            break
    return found


def picture(x: Tensor) -> NDArray[np.uint8] | None:
    """An input ``[1 or 3, H, W]`` as pixels, None if it does not look like a picture.

    Darkest and brightest value become black and white, which undoes any normalisation by channel
    as far as a viewer cares.
    """
    if x.dim() != 3 or x.shape[0] not in (1, 3) or min(x.shape[1:]) < SMALLEST:
        return None
    values = x.detach().float().cpu().numpy().transpose(1, 2, 0)
    low, high = float(values.min()), float(values.max())
    pixels = ((values - low) / (high - low or 1.0) * 255).round().astype(np.uint8)
    times = max(1, PIXELS // max(pixels.shape[:2]))
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return large[:, :, 0] if large.shape[2] == 1 else large


def in_words(x: Tensor, most: int = 12) -> str:
    """An input that is no picture: its shape and first values."""
    flat = x.reshape(-1)[:most].tolist()
    shown = ", ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in flat)
    rest = ", …" if x.numel() > most else ""
    return f"{' × '.join(map(str, x.shape)) or 'one value'}: {shown}{rest}"
