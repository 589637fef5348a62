"""Times per op: what is a row, what is charged to whom, and that sums are what was measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from int8_models import CASES, Made, make

from qviz.bench import Bench, OpTime, warning, worst_first
from qviz.errors import CheckpointError, InputError
from qviz.int8 import timing, timing_run, twin
from qviz.int8.checkpoint import load_checkpoint, save_checkpoint
from qviz.int8.timing import CpuStopwatch, Effort, spread, take
from qviz.int8.timing_file import BENCH, read_benches, write_benches
from qviz.int8.timing_run import How, measure
from qviz.int8.timing_subject import Subject, owners
from qviz.int8.timing_walk import Walk
from qviz.recipe import Override

QUICK = Effort(warm_up=1, fewest=2, most=2, seconds=0.0)


class Ticking:
    """A stopwatch on which every pair takes one microsecond more than the one before it."""

    def __init__(self) -> None:
        self.pairs = 0
        self.told: list[int] = []

    def ahead(self, calls: int) -> None:
        self.told.append(calls)

    def begin(self) -> None:
        pass

    def end(self) -> None:
        self.pairs += 1

    def read(self) -> list[float]:
        found = [1e-6 * (i + 1) for i in range(self.pairs)]
        self.pairs = 0
        return found


class Even(Ticking):
    """One microsecond a pair."""

    def read(self) -> list[float]:
        return [1e-6 for _ in super().read()]


def timed(
    made: Made, clock: timing.Stopwatch | None = None, batches: Sequence[int] = (2,)
) -> Bench:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "stopwatch", lambda device: clock or Even())
        patch.setattr(timing_run, "busy", lambda: ())
        return measure(Subject.of_lowered(made.lowered), batches, How(effort=QUICK))


@cache
def bench(case: str) -> Bench:
    return timed(make(case))


def rows_of(found: Bench, op: str) -> dict[str, OpTime]:
    return {row.kernel: row for row in found.rows if row.op == op}


@pytest.mark.parametrize("case", CASES)
def test_every_call_of_the_program_is_in_one_row(case: str) -> None:
    nodes = make(case).lowered.module.graph.nodes
    calls = sum(node.op == "call_function" for node in nodes)
    found = bench(case)
    assert sum(row.calls for row in found.rows) == calls
    assert sum(row.int8_us for row in found.rows) == pytest.approx(calls)
    assert found.walk_us == {2: pytest.approx(calls)}


@pytest.mark.parametrize("case", CASES)
def test_every_call_of_the_float_twin_is_in_one_row(case: str) -> None:
    graph = twin.float_twin(make(case).lowered.module).graph
    calls = sum(node.op == "call_function" for node in graph.nodes)
    assert sum(row.float_us for row in bench(case).rows) == pytest.approx(calls)
    assert sum(us for row in bench(case).rows for _, us in row.parts) == pytest.approx(calls)


@pytest.mark.parametrize("case", CASES)
def test_borders_are_charged_to_whoever_they_exist_for_and_no_more(case: str) -> None:
    found = bench(case)
    borders = [row for row in found.rows if row.kernel in ("quantize", "dequantize")]
    charged = sum(row.border_us for row in found.rows if row.kernel not in ("quantize",))
    assert charged <= sum(row.int8_us for row in borders) + 1e-9
    assert all(row.float_us == 0 for row in borders)


@pytest.mark.parametrize("case", CASES)
def test_every_integer_kernel_has_the_name_of_its_op_and_of_all_it_computes(case: str) -> None:
    made = make(case)
    found = {row.op: row for row in bench(case).rows if row.is_int8}
    for row in made.lowered.rows:
        if row.kernel.startswith("int8") and not row.reason:
            members = (row.op, *row.fused)
            assert [name for name, _ in found[row.op].parts] in (list(members), [row.op])
            assert found[row.op].type == row.type


def test_a_fused_kernel_stands_beside_the_float_time_of_all_it_computes() -> None:
    row = rows_of(bench("residual CNN"), "point")["int8 conv"]
    assert row.parts == (("point", 1.0), ("add", 1.0), ("relu.1", 1.0))
    assert (row.float_us, row.int8_us) == (3.0, 1.0)
    assert row.ratio == pytest.approx(1 / 3)


def test_a_quantize_call_is_a_row_of_its_own_and_is_charged_to_its_reader() -> None:
    rows = rows_of(bench("residual CNN"), "x")
    assert rows["quantize"].int8_us == 1.0
    assert rows_of(bench("residual CNN"), "stem")["int8 conv"].border_us == 1.0


def test_readers_of_one_quantize_call_share_it() -> None:
    found = bench("products")
    shared = [row.border_us for row in found.rows if row.op == "matmul.1"]
    assert shared == [2.0]  # it reads two quantized tensors
    assert rows_of(found, "linear")["int8 linear"].border_us == 1.0


def test_an_op_left_in_float_has_a_row_under_its_name() -> None:
    found = timed(make("residual CNN", Override("head", int8=False)))
    assert rows_of(found, "head")["float"].ratio == 1.0


def test_what_rounding_an_output_takes_is_known_where_it_is_codes() -> None:
    found = bench("residual CNN")
    assert rows_of(found, "stem")["int8 conv"].requantize_us == 1.0
    assert rows_of(found, "head")["int8 linear"].requantize_us is None


def test_calls_that_cannot_be_told_apart_share_a_row() -> None:
    row = rows_of(bench("residual CNN"), "[contiguous]")["float"]
    assert (row.type, row.calls) == ("contiguous", 1)


def test_medians_and_quartiles_are_of_the_counted_turns() -> None:
    found = spread(np.array([5.0, 1.0, 3.0, 2.0, 4.0]))
    assert (found.low, found.us, found.high, found.runs) == (2.0, 3.0, 4.0, 5)


def test_contenders_take_turns_in_an_order_that_turns_round() -> None:
    order: list[str] = []

    def contender(name: str) -> timing.Contender:
        def run(watch: timing.Stopwatch) -> None:
            order.append(name)
            watch.begin()
            watch.end()

        return run

    effort = Effort(warm_up=1, fewest=2, most=2, seconds=0.0)
    times = take({n: contender(n) for n in "ab"}, Ticking(), effort)
    assert "".join(order) == "baabba"
    assert times["a"].shape == (2, 1)


def test_a_turn_can_be_stopped() -> None:
    def stop() -> None:
        raise InputError("bench", "stopped", "Go on")

    with pytest.raises(InputError, match="stopped"):
        take({}, Ticking(), Effort(), stop)


def test_a_stopwatch_gives_one_time_per_pair_and_forgets_it() -> None:
    watch = CpuStopwatch()
    for _ in range(3):
        watch.begin()
        watch.end()
    assert len(watch.read()) == 3
    assert watch.read() == []


def test_on_one_thread_what_others_take_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    watch = CpuStopwatch()
    assert watch._now is time.thread_time_ns
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert CpuStopwatch()._now is time.perf_counter_ns


def test_a_walk_computes_what_the_program_computes() -> None:
    made = make("residual CNN")
    seen: dict[str, object] = {}
    program = made.lowered.module
    Walk(program).run(list(made.batch.args), look=lambda n, a, k, v: seen.update({n.name: v}))
    (output,) = [n for n in program.graph.nodes if n.op == "output"]
    (last,) = output.all_input_nodes
    found = seen[last.name]
    assert isinstance(found, torch.Tensor)
    with torch.no_grad():
        assert torch.equal(found, program(*made.batch.args))


def test_the_device_is_told_how_many_calls_follow() -> None:
    clock = Even()
    timed(make("residual CNN"), clock)
    calls = len(owners(Subject.of_lowered(make("residual CNN").lowered)))
    assert calls in clock.told


def test_the_whole_model_is_run_both_ways_at_every_batch_size() -> None:
    found = timed(make("keywords and trees"), batches=(1, 3))
    assert [(w.batch, w.name) for w in found.whole] == [
        (1, "float fp32"), (1, "int8"), (3, "float fp32"), (3, "int8"),
    ]  # fmt: skip
    assert found.batches == (1, 3)
    assert found.time(3, "int8").runs == 2


def test_the_float_side_can_be_of_another_type() -> None:
    made = make("transformer block")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "stopwatch", lambda device: Even())
        found = measure(
            Subject.of_lowered(made.lowered), (1,), How(float_type="bf16", effort=QUICK)
        )
    assert [w.name for w in found.whole] == ["float bf16", "int8"]
    assert found.float_type == "bf16"


def test_without_a_gpu_cuda_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError) as refusal:
        timing.stopwatch("cuda")
    assert str(refusal.value) == (
        "device cuda: PyTorch sees no CUDA GPU on this machine. Time on the CPU, or name a GPU "
        "with --gpu to get a roofline estimate for it."
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_programs_are_run_eager_and_as_a_graph(folder: Path) -> None:
    checkpoint = load_checkpoint(folder).to("cuda", torch.float16)
    found = measure(Subject.of_checkpoint(checkpoint), (2,), How("cuda", effort=QUICK))
    assert not any("not timed" in note for note in found.notes)
    assert [w.name for w in found.whole] == [
        "float fp16", "float fp16, CUDA graph", "int8", "int8, CUDA graph",
    ]  # fmt: skip
    assert all(w.time.us > 0 for w in found.whole)
    assert {r.op for r in found.rows if r.is_int8} == {
        r.op for r in bench("residual CNN").rows if r.is_int8
    }


ROW = OpTime(1, "conv", "conv2d", "int8 conv", (("conv", 8.0),), 1, 8.0, 9.0, 3.0, 1.2)


def test_an_op_is_slower_only_if_most_passes_say_so() -> None:
    assert ROW.ratio == 1.5
    assert ROW.slower
    assert not replace(ROW, ratio_low=0.9).slower
    assert not replace(ROW, kernel="float").slower
    assert not replace(ROW, int8_us=4.0, border_us=0.0).slower


def test_a_warning_names_the_op_and_what_it_costs() -> None:
    found = replace(bench("residual CNN"), rows=(ROW,), device="a CPU", threads=2)
    assert found.warnings() == (
        "conv (batch 1): int8 is slower here than fp32, 12.0 us, 3.00 of it to quantize, against "
        "8.00 us (measured on a CPU, 2 threads)",
    )
    assert warning(ROW, found) == found.warnings()[0]


def test_the_worst_is_first_and_then_the_biggest() -> None:
    rows = (
        replace(ROW, op="big", int8_us=1.0, float_us=99.0, border_us=70.0),
        replace(ROW, op="small", int8_us=1.0, float_us=99.0, border_us=0.0),
        ROW,
        replace(ROW, op="worse", int8_us=90.0),
    )
    assert [row.op for row in worst_first(rows)] == ["worse", "conv", "big", "small"]


@pytest.mark.parametrize("case", CASES)
def test_a_bench_survives_json(case: str) -> None:
    found = bench(case)
    assert Bench.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8")
    save_checkpoint(make("residual CNN").lowered, path)
    return path


def test_a_saved_program_gives_the_rows_of_the_lowered_one(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "stopwatch", lambda device: Even())
        subject = Subject.of_checkpoint(load_checkpoint(folder))
        found = measure(subject, (2,), How(effort=QUICK))
    assert found.rows == bench("residual CNN").rows


def test_the_file_keeps_one_bench_per_device_and_drops_other_programs(tmp_path: Path) -> None:
    one = bench("residual CNN")
    other = replace(one, device="another")
    write_benches(tmp_path, [one, other])
    write_benches(tmp_path, [replace(one, notes=("again",))])
    assert [b.notes for b in read_benches(tmp_path)] == [one.notes, ("again",)]  # newest last
    write_benches(tmp_path, [replace(one, program="new")])
    assert [b.program for b in read_benches(tmp_path)] == ["new"]


def test_a_damaged_file_is_said_and_replaced(tmp_path: Path) -> None:
    (tmp_path / BENCH).write_text("{}")
    with pytest.raises(CheckpointError) as refusal:
        read_benches(tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path / BENCH}: it is damaged, or of another version. Delete it and run qviz bench "
        "again."
    )
    write_benches(tmp_path, [bench("residual CNN")])
    assert len(read_benches(tmp_path)) == 1
