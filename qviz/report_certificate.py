"""What a certificate says, in words and rows: the same in the report, the app and the terminal.

Takes the plain values of ``certificate.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qviz.digits import count, number, percent, scored
from qviz.metrics import METRICS, Metric

Found = Mapping[str, Any]

#: Heads of ``backend_rows``; one that ends in "<" is left-aligned. The metric's name goes into {}.
BACKEND_HEADS = (
    "backend<", "verdict<", "{}", "from float (95 %)", "from simulation", "same class",
    "SQNR (dB)", "outputs", "one step off", "more",
)  # fmt: skip
#: Heads of ``call_rows``.
CALL_HEADS = (
    "backend<", "op<", "kernel<", "output<", "outputs", "one step off", "more", "largest (steps)",
)  # fmt: skip


def metric_of(found: Found, metric: Metric | None = None) -> Metric | None:
    """The metric that was measured, if it is known here."""
    if metric is not None and metric.name == found["metric"]:
        return metric
    return METRICS.get(found["metric"])


def backend(found: Found, name: str = "cpu") -> Found:
    """One backend's result by its name."""
    held: Found = next(one for one in found["backends"] if one["name"] == name)
    return held


def backend_rows(found: Found, metric: Metric | None = None) -> list[tuple[str, ...]]:
    """One row per backend, under ``BACKEND_HEADS``."""
    return [
        (
            one["title"],
            verdict(one),
            value(found, one["value"], metric),
            changed(one["from_float"]),
            changed(one["from_simulated"]),
            percent(one["same_class"]),
            number(one["sqnr_db"]),
            *_counted(one["calls"]),
        )
        for one in found["backends"]
    ]


def _counted(calls: Found | None) -> tuple[str, str, str]:
    if calls is None:
        return "-", "-", "-"
    return count(calls["count"]), f"{calls['one_step']:,}", f"{calls['more']:,}"


def verdict(one: Found) -> str:
    """``passed``, ``FAILED``, ``not run`` or ``reference``."""
    return "FAILED" if one["verdict"] == "failed" else str(one["verdict"])


def notes(found: Found) -> list[str]:
    """What is to be said about single backends: why not run, where from, compared with what."""
    usual = found["tolerance"]["one_step"]
    about: dict[str, list[str]] = {}
    for one in found["backends"]:
        said = " ".join(p for p in (one["reason"] and f"{one['reason']}.", one["because"]) if p)
        share = one["allowed"]
        if said or share != usual:
            more = "" if share == usual else f" (at most {percent(share)} one step off)"
            about.setdefault(said, []).append(f"{one['title']}{more}")
    return [f"{', '.join(titles)}: {said}" for said, titles in about.items()]


def value(found: Found, held: float | None, metric: Metric | None = None) -> str:
    """A value of the certificate's metric with its unit."""
    known = metric_of(found, metric)
    return number(held) if held is None or known is None else scored(held, known)


def changed(held: Found | None) -> str:
    """A relative change with its interval: ``-0.51 % (-1.20 to +0.30)``."""
    if held is None:
        return "-"
    if held["value"] == held["low"] == held["high"] == 0:
        return "none"
    limits = (
        f"{number(100 * held['low'], signed=True)} to {number(100 * held['high'], signed=True)}"
    )
    return f"{percent(held['value'], signed=True)} ({limits})"


def calls(found: Found) -> list[Found]:
    """Every integer call of every backend, worst first, each with its ``backend``."""
    rows = [
        (_badness(row, one["allowed"]), {"backend": one["name"], **row})
        for one in found["backends"]
        for row in one["rows"]
    ]
    return [row for _, row in sorted(rows, key=lambda pair: pair[0], reverse=True)]


def _badness(row: Found, allowed: float) -> tuple[float, float, float]:
    """Measured by what the backend may: float16 sums fall beside a tie far more often."""
    largest = float("inf") if row["largest"] is None else row["largest"]
    size = max(1, row["count"])
    return row["more"] / size, row["one_step"] / size / allowed, largest


def call_rows(found: Found, most: int | None = None) -> list[tuple[str, ...]]:
    """The same as text, under ``CALL_HEADS``."""
    return [
        (
            row["backend"],
            row["op"],
            row["kernel"],
            row["output"],
            f"{row['count']:,}",
            f"{row['one_step']:,}",
            f"{row['more']:,}",
            "no such output" if row["largest"] is None else number(row["largest"]),
        )
        for row in calls(found)[:most]
    ]


def identity_rows(found: Found) -> list[tuple[str, str, str]]:
    """What it is about: what, its name, its digest."""
    about = found["subject"]
    rows = [
        (what, _named(about[key]), about[key]["digest"])
        for what, key in (
            ("model", "model"),
            ("calibration data", "calibration"),
            ("verified on", "data"),
        )
        if about[key] is not None
    ]
    rows.append(("recipe", f"profile {about['profile']}", about["recipe"]))
    return [*rows, *(("file", name, digest) for name, digest in about["files"].items())]


def _named(held: Found) -> str:
    return f"{held['name']}" + ("" if held["count"] is None else f", {held['count']:,} samples")


def parity_sentence(found: Found, name: str = "cpu") -> str:
    """Whether a backend computes what was simulated."""
    one = backend(found, name)
    p = one["calls"] or {"rows": 0, "count": 0, "one_step": 0, "more": 0, "share": 0.0}
    said = "computes" if one["verdict"] == "passed" else "does NOT compute"
    rare = f" (1 in {count(round(1 / p['share']))})" if p["share"] else ""
    many = "1 call" if p["rows"] == 1 else f"{p['rows']} calls"
    title = one["title"][:1].upper() + one["title"][1:]
    return (
        f"{title} {said} what was simulated: {many} compared on "
        f"{one['compared']:,} samples, {count(p['count'])} outputs, {p['one_step']:,} of them one "
        f"step off{rare} and {p['more']:,} more than one step."
    )


def format_parity(told: Found) -> str:
    """``passed`` or ``FAILED`` for a format that something was proven of, "" for another."""
    for key in ("certificate", "onnxruntime"):
        held = told.get(key)
        if isinstance(held, Mapping):
            parity = held.get("parity", held)
            return "passed" if parity["passed"] else "FAILED"
    return ""


def verdict_sentence(found: Found) -> str:
    """All backends in one sentence: those that passed, those that failed, those not run."""
    parts = []
    for word, said in (("failed", "failed"), ("passed", "passed"), ("not run", "not run")):
        names = [one["title"] for one in found["backends"] if one["verdict"] == word]
        if names:
            parts.append(f"{said}: {', '.join(names)}")
    return "; ".join(parts)


def metric_sentence(found: Found, metric: Metric | None = None) -> str:
    """The metric of the program beside that of the simulation."""
    known, one = metric_of(found, metric), backend(found)

    def said(held: float | None) -> str:
        return value(found, held, metric)

    text = (
        f"{known.title if known else found['metric']}, measured: {said(one['value'])} by the int8 "
        f"program, {said(one['simulated'])} simulated"
    )
    if "float" in found["recorded"]:
        text += f", {said(found['recorded']['float'])} by the float model at export"
    same = one["same_class"]
    classes = "" if same is None else f"; the same class for {percent(same)} of samples"
    against = "" if found["reference"] is None else f" Compared with the {found['reference']}."
    return f"{text}. SQNR of the outputs {number(one['sqnr_db'])} dB{classes}.{against}"


def tolerance_sentence(found: Found) -> str:
    """What counts as equal, and why it is not zero."""
    held = found["tolerance"]
    return (
        f"Tolerance: no output more than one step off, at most {percent(held['one_step'])} of all "
        f"outputs one step off, a float output equal within {percent(held['float_step'])} of a "
        f"step. {held['reason']}"
    )


def size_sentence(found: Found) -> str:
    """Size beside float's."""
    share = found["int8_bytes"] / max(1, found["float_bytes"])
    return (
        f"{count(found['int8_bytes'])}B of weights and constants, {percent(share)} of float's "
        f"{count(found['float_bytes'])}B."
    )


def times_sentence(found: Found) -> str:
    """Latency beside float's, on the machine that verified it."""
    return " ".join(
        f"Batch of {row['batch']}: {number(row['int8_ms'])} ms, {timed(row)}, medians of "
        f"{row['runs']} runs."
        for row in found["latency"]
    )


def timed(row: Found) -> str:
    """What the latency of the int8 program is beside."""
    return f"float {number(row['float_ms'])} ms, {threads(row['threads'])}"


def threads(many: int) -> str:
    """``1 thread``, ``8 threads``."""
    return "1 thread" if many == 1 else f"{many} threads"


def machine_sentence(found: Found) -> str:
    """Where and when it was made, with which versions."""
    held = found["environment"]
    cpu, gpu = held["processor"], held["gpu"]
    able = ", ".join(cpu["instructions"]) or "none of the int8 instructions"
    text = (
        f"Made {found['created']} on {cpu['name']} ({cpu['architecture']}; {able}), "
        f"{threads(held['threads'])}"
    )
    if gpu is not None:
        text += (
            f", {gpu['name']} (compute capability {gpu['capability']}, driver {gpu['driver']}, "
            f"CUDA {gpu['cuda']})"
        )
    versions = ", ".join(f"{name} {version}" for name, version in held["versions"].items())
    return f"{text}; {held['system']}, {versions}."


def kernels(found: Found) -> list[tuple[str, str, str, str]]:
    """Which kernels each backend has chosen: backend, kind of op, kernels, why."""
    return [
        (one["name"], held["kind"], held["backend"], held["reason"])
        for one in found["backends"]
        for held in one["kernels"]
    ]


def heads(found: Found, metric: Metric | None = None) -> Sequence[str]:
    """``BACKEND_HEADS`` with the metric's title."""
    known = metric_of(found, metric)
    return [head.format(known.title if known else found["metric"]) for head in BACKEND_HEADS]
