"""What a model costs in time, per op and as a whole: values, measured or estimated.

``int8/timing*.py`` measures them, ``int8/roofline.py`` estimates them; ``bench_plan.py`` turns them
into what leaving an op in float costs. An estimate says so wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

FORMAT = "qviz-bench"
VERSION = 1


@dataclass(frozen=True)
class Spread:
    """Times of one thing.

    Attributes:
        us: median, in microseconds.
        low: first quartile.
        high: third quartile.
        runs: how many; 0 for an estimate.
    """

    us: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class WholeTime:
    """The whole model, run one way.

    Attributes:
        batch: samples per run.
        name: ``float fp32``, ``int8``, ``float fp16, CUDA graph`` ...
        time: of one run.
    """

    batch: int
    name: str
    time: Spread


@dataclass(frozen=True)
class OpTime:
    """One op: as int8 and as float.

    Attributes:
        batch: samples per run.
        op: its name; of a quantize or dequantize call the name of the tensor; ``[type]`` for calls
            that cannot be told apart.
        type: ``conv2d``, ``quantize`` ...
        kernel: what the int8 program runs: ``int8 conv``, ``float``, ``codes``, ``quantize`` ...
        parts: float time of each op that the kernel computes, in microseconds, its own first.
        calls: in the int8 program.
        float_us: of the same arithmetic in the float program, all parts.
        int8_us: of the calls themselves.
        border_us: its share of the quantize and dequantize calls that exist for its sake. They
            have rows of their own: a sum over rows leaves this out.
        ratio_low: first quartile of the ratio over the passes; None for an estimate.
        requantize_us: what rounding its output in a call of its own takes; None if it has no codes.
        bound: what bounds an estimate, int8 / float: ``memory / compute``; "" if measured.
    """

    batch: int
    op: str
    type: str
    kernel: str
    parts: tuple[tuple[str, float], ...]
    calls: int
    float_us: float
    int8_us: float
    border_us: float
    ratio_low: float | None = None
    requantize_us: float | None = None
    bound: str = ""

    @property
    def is_int8(self) -> bool:
        """Whether it has an integer kernel."""
        return self.kernel.startswith("int8")

    @property
    def cost_us(self) -> float:
        """Time in the int8 program, borders included."""
        return self.int8_us + self.border_us

    @property
    def ratio(self) -> float | None:
        """int8, borders included, over float: below 1 is faster. None without a float side."""
        return self.cost_us / self.float_us if self.float_us > 0 else None

    @property
    def slower(self) -> bool:
        """int8 is slower than float here; measured: in three passes of four."""
        if not self.is_int8 or self.ratio is None:
            return False
        return self.ratio > 1 and (self.ratio_low is None or self.ratio_low > 1)


@dataclass(frozen=True)
class Bench:
    """Times of one program on one device.

    Attributes:
        estimated: computed from a datasheet, not measured.
        device: its name.
        float_type: of the float side: ``fp32``, ``fp16``, ``bf16``.
        threads: on the CPU; None elsewhere.
        program: digest of the program that was timed.
        rows: per op, by batch size, then in execution order.
        whole: the whole model.
        walk_us: batch -> sum of the medians over all calls of the int8 program; beside the whole
            model's time it says what calling ops one by one adds or hides.
        notes: what has to be known to read the numbers, in words.
    """

    estimated: bool
    device: str
    float_type: str
    threads: int | None
    program: str
    rows: tuple[OpTime, ...]
    whole: tuple[WholeTime, ...]
    walk_us: Mapping[int, float]
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How the numbers are known: ``measured on ...`` or ``roofline estimate for ...``."""
        if self.estimated:
            return f"roofline estimate for {self.device}"
        threads = "" if self.threads is None else f", {_threads(self.threads)}"
        return f"measured on {self.device}{threads}"

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes, as they were asked for."""
        return tuple(dict.fromkeys(row.batch for row in self.rows))

    def of(self, batch: int) -> tuple[OpTime, ...]:
        """The rows of one batch size."""
        return tuple(row for row in self.rows if row.batch == batch)

    def time(self, batch: int, name: str) -> Spread:
        """Of the whole model, run one way.

        Raises:
            KeyError: it was not run that way.
        """
        for one in self.whole:
            if (one.batch, one.name) == (batch, name):
                return one.time
        raise KeyError((batch, name))

    @property
    def slower(self) -> tuple[OpTime, ...]:
        """Ops that are slower in int8 than in float, the largest loss first."""
        found = [row for row in self.rows if row.slower]
        return tuple(sorted(found, key=lambda row: row.float_us - row.cost_us))

    def warnings(self) -> tuple[str, ...]:
        """``slower`` in words."""
        return tuple(warning(row, self) for row in self.slower)

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them."""
        plain = asdict(self)
        for row, own in zip(plain["rows"], self.rows, strict=True):
            row |= {"ratio": own.ratio, "slower": own.slower}
        return {**plain, "label": self.label, "warnings": self.warnings()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Bench:
        """A bench from plain values.

        Raises:
            KeyError, TypeError, ValueError: they are of something else.
        """
        own = _known(Bench, value)
        own["rows"] = tuple(_row(row) for row in value["rows"])
        own["whole"] = tuple(
            WholeTime(int(w["batch"]), str(w["name"]), Spread(**_known(Spread, w["time"])))
            for w in value["whole"]
        )
        own["walk_us"] = {int(k): float(v) for k, v in value["walk_us"].items()}
        own["notes"] = tuple(value["notes"])
        return Bench(**own)


def warning(row: OpTime, bench: Bench) -> str:
    """``conv1 (batch 1): int8 is slower here than fp32, 12.0 against 8.0 us ...``."""
    from qviz.digits import number

    border = f", {number(row.border_us)} of it to quantize," if row.border_us > 0 else ""
    return (
        f"{row.op} (batch {row.batch}): int8 is slower here than {bench.float_type}, "
        f"{number(row.cost_us)} us{border} against {number(row.float_us)} us ({bench.label})"
    )


def worst_first(rows: Sequence[OpTime]) -> tuple[OpTime, ...]:
    """Ops that are slower in int8 by what they lose, then all others by their time."""
    return tuple(
        sorted(
            rows, key=lambda r: (not r.slower, r.float_us - r.cost_us if r.slower else -r.cost_us)
        )
    )


def _threads(count: int) -> str:
    return f"{count} {'thread' if count == 1 else 'threads'}"


def _row(value: Mapping[str, Any]) -> OpTime:
    parts = tuple((str(name), float(us)) for name, us in value["parts"])
    return OpTime(**_known(OpTime, value) | {"parts": parts})


def _known(kind: type, value: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: value[f.name] for f in fields(kind) if f.name in value}
