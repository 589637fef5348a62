"""The parity certificate: one document that says that an int8 model behaves as the screen said.

Which model, decided by which recipe, from which data; on which machine, with which versions; what
every backend scores and how every op of it compares with the simulation; and what counts as equal.
``verify.py`` makes one, ``certificate_file.py`` keeps it as ``certificate.json`` in the checkpoint
(schema: qviz/schemas/certificate.schema.json).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qviz.errors import CheckpointError, ParityError
from qviz.int8 import certificate_json as plain
from qviz.int8.environment import Environment
from qviz.int8.parity import CPU, CPU_CURE, EQUAL, MOST_ONE_STEP, REASON, Parity, ParityRow

FORMAT = "qviz-certificate"
VERSION = 1
#: Names of the two results that others are compared with.
FLOAT, SIMULATED = "float", "simulated"
CUDA = "cuda"
#: What a backend calls its kernels, and what may help where one is wrong; others run a file.
KERNELS = {
    CPU: ("integer kernel", CPU_CURE),
    CUDA: ("CUDA kernel", "Run it on the CPU until it is mended"),
}
OTHERS = ("exported op", "Try another version of its runtime")
VERIFY_AGAIN = "Make it again with qviz verify"

#: ``reference`` is what others are compared with; ``not run`` says why in ``reason``.
Verdict = Literal["reference", "passed", "failed", "not run"]


@dataclass(frozen=True)
class Tolerance:
    """What counts as equal.

    Attributes:
        one_step: share of all outputs that may be one step off, unless a backend says otherwise;
            none may be further off.
        float_step: a float output is equal within this part of an int8 step over its range.
        reason: why it is not zero.
    """

    one_step: float = MOST_ONE_STEP
    float_step: float = EQUAL
    reason: str = REASON


@dataclass(frozen=True)
class Change:
    """Relative change of the metric on the same samples.

    Attributes:
        value: ``(this - other) / |other|``.
        low: lower limit of the 95 % paired bootstrap interval.
        high: upper limit.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Kernel:
    """Which kernels run one kind of op, and why those."""

    kind: str
    backend: str
    reason: str


@dataclass(frozen=True)
class BackendResult:
    """What one backend computes.

    Attributes:
        name: ``float``, ``simulated``, ``cpu``, ``cuda``, or the format of an exported file.
        title: for a person.
        verdict: on its parity.
        reason: why it was not run, or where its numbers are from; "" otherwise.
        file: that it runs, relative to the checkpoint.
        value: the metric.
        simulated: the metric of the simulation that it is compared with: that of the checkpoint, or
            of the recipe as the exported file's engine computes it.
        from_float: change of the metric from the float model; None where its score of each sample
            is not known.
        from_simulated: the same from the simulation.
        same_class: share of samples that both put into the same class; None without classes.
        sqnr_db: of its outputs against the simulated ones.
        kernels: that it chose on this machine.
        rows: its integer calls against the simulation on identical codes.
        compared: samples that the calls were compared on; the metric is of all samples.
        allowed: share of their outputs that may be one step off.
        because: why that is another share than elsewhere, or what the calls were compared with;
            "" where the certificate's tolerance says it all.
    """

    name: str
    title: str
    verdict: Verdict
    reason: str = ""
    file: str = ""
    value: float | None = None
    simulated: float | None = None
    from_float: Change | None = None
    from_simulated: Change | None = None
    same_class: float | None = None
    sqnr_db: float | None = None
    kernels: tuple[Kernel, ...] = ()
    rows: tuple[ParityRow, ...] = ()
    compared: int = 0
    allowed: float = MOST_ONE_STEP
    because: str = ""

    @property
    def parity(self) -> Parity:
        """All its calls together."""
        return Parity(self.rows, self.allowed)


@dataclass(frozen=True)
class Latency:
    """Median times of the integer program and of the same program in float, run in turn.

    Attributes:
        batch: samples per run.
        int8_ms: milliseconds.
        float_ms: milliseconds, with folded batch norm and channels-last layout.
        runs: of each.
        threads: that PyTorch used.
    """

    batch: int
    int8_ms: float
    float_ms: float
    runs: int
    threads: int

    @property
    def ratio(self) -> float:
        """int8 over float: below 1 is faster."""
        return self.int8_ms / self.float_ms


@dataclass(frozen=True)
class Named:
    """A model or data: its name, the digest of its contents, and the number of samples."""

    name: str
    digest: str
    count: int | None = None


@dataclass(frozen=True)
class Subject:
    """What the certificate is about.

    Attributes:
        model: the float model; None if the checkpoint does not say.
        calibration: data that the ranges are from; None likewise.
        data: that everything here was measured on.
        recipe: digest of the decision.
        profile: engine whose rules the decision follows.
        files: name -> sha256, of the checkpoint's files and of the exported ones that were run.
    """

    model: Named | None
    calibration: Named | None
    data: Named
    recipe: str
    profile: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Certificate:
    """What ``verify`` found.

    Attributes:
        created: when, UTC.
        subject: what it is about.
        samples: of the data.
        metric: its name.
        reference: what a metric compares with that needs the float model's outputs: the float twin
            of the program, whose weights are rounded; None for other metrics.
        recorded: metrics noted at export, of ``float`` and ``simulated``; empty unless it was the
            same data and metric.
        tolerance: what counts as equal.
        backends: the float model, the simulation, and everything that runs integers.
        int8_bytes: size of ``model.safetensors``.
        float_bytes: size of the float model's parameters.
        program_bytes: size of ``model.pt2``, which holds the weights once more, to load alone.
        latency: one entry per batch size, on the CPU.
        environment: the machine and the versions.
    """

    created: str
    subject: Subject
    samples: int
    metric: str
    reference: str | None
    recorded: Mapping[str, float]
    tolerance: Tolerance
    backends: tuple[BackendResult, ...]
    int8_bytes: int
    float_bytes: int
    program_bytes: int
    latency: tuple[Latency, ...]
    environment: Environment

    @property
    def passed(self) -> bool:
        """Every backend that was run computes what was simulated."""
        return all(b.verdict != "failed" for b in self.backends)

    def check(self) -> None:
        """Raise what is wrong.

        Raises:
            ParityError: an op is off by more than one step, or too many outputs by one; or an
                exported file cannot be run.
        """
        for one in self.backends:
            if one.verdict == "failed" and not one.rows:
                raise ParityError(
                    one.title, f"it could not be run ({one.reason})", "Export it again"
                )
            if one.verdict == "failed":
                one.parity.check(*KERNELS.get(one.name, OTHERS))

    def backend(self, name: str) -> BackendResult:
        """One backend's result by its name."""
        return next(b for b in self.backends if b.name == name)

    @property
    def parity(self) -> Parity:
        """The integer calls on the CPU."""
        return self.backend(CPU).parity

    def to_json(self) -> dict[str, Any]:
        """Plain values, sealed with a digest of themselves."""
        values = plain.values(self)
        for held, one in zip(values["backends"], self.backends, strict=True):
            held["calls"] = _summary(one.parity) if one.rows else None
        values["latency"] = [
            {**held, "ratio": one.ratio}
            for held, one in zip(values["latency"], self.latency, strict=True)
        ]
        found = {"format": FORMAT, "version": VERSION, "passed": self.passed, **values}
        return {**found, "seal": seal(found)}

    @staticmethod
    def from_json(text: str, name: str = "certificate") -> Certificate:
        """Read what ``to_json`` gave.

        Args:
            text: JSON.
            name: what an error calls it.

        Raises:
            CheckpointError: it is not JSON, not a certificate, of another version, or was changed.
        """
        try:
            found = json.loads(text)
        except ValueError:
            raise CheckpointError(name, "it is damaged: not JSON", VERIFY_AGAIN) from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise CheckpointError(
                name, f'it is no certificate: "format" is not "{FORMAT}"', VERIFY_AGAIN
            )
        if found.get("version") != VERSION:
            raise CheckpointError(
                name,
                f"schema version {found.get('version')} is not {VERSION}, the one this qviz reads",
                "Install the qviz that wrote it, or make it again with qviz verify",
            )
        if found.get("seal") != seal(found):
            raise CheckpointError(
                name, "it was changed after it was made: its seal does not fit", VERIFY_AGAIN
            )
        try:
            return plain.made(Certificate, found)
        except plain.WrongValueError as failure:
            raise CheckpointError(name, f"it is damaged: {failure}", VERIFY_AGAIN) from None


def seal(found: Mapping[str, Any]) -> str:
    """Digest of everything else in a certificate's values."""
    rest = {key: value for key, value in found.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _summary(found: Parity) -> dict[str, Any]:
    largest = max(row.largest for row in found.rows)
    return {
        "rows": len(found.rows),
        "count": found.count,
        "exact": found.count - found.one_step - found.more,
        "one_step": found.one_step,
        "more": found.more,
        "share": found.share,
        "largest": plain.number(largest),
    }
