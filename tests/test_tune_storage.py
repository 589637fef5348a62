"""Storage: entropy coding that can be decoded, codebooks, step subsets, pruning, sizes."""

from __future__ import annotations

import inspect
import json
import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from int8_models import make
from numpy.typing import NDArray
from torch import nn
from tune_kit import of_module

from qviz.affine import quantize
from qviz.cli import main
from qviz.errors import Cancelled, DataError, NotFiniteError, RangeError, TuneError
from qviz.int8.checkpoint import save_checkpoint
from qviz.int8.checkpoint_sizes import checkpoint_sizes
from qviz.observe import observe
from qviz.progress import Progress
from qviz.recipe import Override
from qviz.simulate import Simulator
from qviz.tune import codebook, entropy_coding, nuq, pruning, relative_index, sizes, weight_range
from qviz.tune.entropy_coding import code_lengths, decode, encode, encoded_bytes, entropy_bits
from qviz.tune.methods import METHODS
from qviz.tune.step import Step, Subject
from qviz.weights import TunedWeights

CODES = st.lists(st.integers(-128, 127), max_size=300).map(lambda v: np.array(v, dtype=np.int8))
#: Mostly zeros, with gaps longer than one gap can count.
SPARSE = st.lists(st.sampled_from([0] * 40 + [1, -3, 127]), max_size=400).map(
    lambda v: np.array(v, dtype=np.int8)
)
COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=60).map(np.array)


def subject(name: str = "residual", **choices: object) -> Subject:
    simulator = Simulator(networks.network(name)[1])
    data = networks.data(name, 16)
    recipe = replace(networks.recipe(name), **choices)  # type: ignore[arg-type]
    return Subject(
        simulator,
        recipe,
        data,
        simulator,
        lambda: observe(simulator.program, data, workers=1),
    )


def codes_after(given: Subject, step: Step) -> dict[str, NDArray[np.int8]]:
    """Integer codes of every weight once a step is made, by op."""
    return codes_of_all(given.after(step))


def codes_of_all(given: Subject) -> dict[str, NDArray[np.int8]]:
    """Integer codes of every weight, by op."""
    return {
        op: sizes.codes_of(given.simulator, given.recipe, operand, bits).numpy()
        for op, (operand, bits) in sizes.int8_weights(given.simulator, given.recipe).items()
    }


# -- Huffman ------------------------------------------------------------------------------------


@given(CODES)
def test_decoding_gives_the_codes_back(codes: NDArray[np.int8]) -> None:
    data = encode(codes)
    assert np.array_equal(decode(data), codes)
    assert encoded_bytes(codes) == len(data)


def test_codes_of_several_chunks_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy_coding, "_CHUNK", 64)
    codes = np.rint(np.random.default_rng(0).normal(0, 9, 4000)).astype(np.int8)
    assert np.array_equal(decode(encode(codes)), codes)


@given(COUNTS)
def test_a_symbol_takes_its_entropy_and_less_than_one_bit_more(counts: NDArray[np.int64]) -> None:
    total = int(counts.sum())
    bits = int((counts * code_lengths(counts)).sum())
    bound = entropy_bits(counts)
    assert bound - 1e-6 <= bits
    assert bits < bound + total or total == 0


@given(COUNTS)
def test_no_code_is_the_beginning_of_another(counts: NDArray[np.int64]) -> None:
    lengths = code_lengths(counts)
    table = entropy_coding.Table(0, lengths)
    words = [f"{int(w):0{n}b}" for w, n in zip(table.words(), lengths, strict=True) if n]
    assert sum(Fraction(1, 2 ** len(w)) for w in words) in (0, 1)  # no bits are wasted either
    assert not any(a != b and b.startswith(a) for a in words for b in words)
    assert len(set(words)) == len(words)


def test_lengths_and_words_by_hand() -> None:
    lengths = code_lengths(np.array([5, 0, 1, 2, 1]))
    assert lengths.tolist() == [1, 0, 3, 2, 3]
    words = entropy_coding.Table(-2, lengths).words()
    assert words.tolist() == [0b0, 0, 0b110, 0b10, 0b111]


def test_the_bytes_of_a_stream_by_hand() -> None:
    data = encode(np.array([[-2, -2, 1], [-2, 0, -2]], dtype=np.int8))
    # 6 codes from -2, 4 values, lengths of 2 bits: 1, -, 2, 2; then 0 0 11 0 10 0
    assert data == bytes([6, 0, 0, 0, 0xFE, 0xFF, 3, 2, 0b01_00_10_10, 0b00110100])


def test_equal_codes_take_the_head_alone() -> None:
    assert len(encode(np.full(1000, 7))) == 8
    assert decode(encode(np.full(1000, 7))).tolist() == [7] * 1000


def test_codes_that_spread_too_wide_are_refused() -> None:
    with pytest.raises(RangeError) as caught:
        encode(np.array([-128, 128]))
    assert str(caught.value) == (
        "codes from -128 to 128: a table holds at most 256 different values. Code integers of at "
        "most 8 bits."
    )


@pytest.mark.parametrize(
    ("cut", "reason"),
    [(7, "its head is cut off"), (8, "its table is cut off"), (-1, "its data are cut off")],
)
def test_a_stream_that_is_cut_short_is_refused(cut: int, reason: str) -> None:
    data = encode(np.arange(-40, 40))[:cut]
    with pytest.raises(DataError) as caught:
        decode(data)
    assert str(caught.value) == f"Huffman-coded codes: {reason}. Encode the codes again."


def test_a_table_that_is_no_code_is_refused() -> None:
    data = bytearray(encode(np.array([-2, -2, 1, 0])))
    data[8] = 0
    with pytest.raises(DataError, match="its table is no complete code"):
        decode(bytes(data))


@given(SPARSE)
def test_values_and_gaps_give_the_codes_back(codes: NDArray[np.int8]) -> None:
    data = relative_index.encode(codes)
    assert np.array_equal(relative_index.decode(data), codes)
    assert relative_index.encoded_bytes(codes) == len(data)


def test_gaps_by_hand() -> None:
    codes = np.zeros(45, dtype=np.int8)
    codes[[0, 3, 40]] = 5, -1, 9
    values, gaps = relative_index.sparse(codes)
    # 36 zeros lie before the last value: 31 and a filler, then 4 more
    assert (values.tolist(), gaps.tolist()) == ([5, -1, 0, 9], [0, 2, 31, 4])


def test_gaps_are_smaller_than_dense_codes_where_most_weights_are_zero() -> None:
    codes = np.rint(np.random.default_rng(0).normal(0, 20, 20_000)).astype(np.int8)
    assert sizes.weight_size("w", codes, 8, 1).form == "dense"
    codes[np.abs(codes) < 40] = 0
    row = sizes.weight_size("w", codes, 8, 1)
    assert row.form == "sparse"
    assert row.coded_bytes < 20_000 // 8 + 2000  # below one bit for each zero


def test_sizes_by_hand() -> None:
    row = sizes.weight_size("w", np.array([0, 0, 0, 1, -1], dtype=np.int8), 4, scales=2)
    assert (row.count, row.zeros, row.distinct) == (5, 3, 3)
    assert (row.float_bytes, row.int8_bytes, row.packed_bytes) == (20, 13, 11)
    assert row.indexed_bytes == 2 + 3 + 8  # five numbers of two bits, three codes, two scales
    assert row.coded_bytes == 8 + 1 + 1 + 8  # head, table, seven bits, scales
    assert row.entropy_bytes == 1 + 8  # 6.9 bits


# -- codebook -----------------------------------------------------------------------------------


def lloyd(values: NDArray[np.float64], k: int, rounds: int) -> tuple[list[float], list[int]]:
    """k-means from evenly spaced centres, one value at a time."""
    low, high = values.min(), values.max()
    centres = [low + i * (high - low) / max(1, k - 1) for i in range(k)]
    labels = [0] * len(values)
    for turn in range(rounds + 1):
        labels = [min(range(k), key=lambda i: (abs(v - centres[i]), i)) for v in values]
        if turn < rounds:
            for i in range(k):
                own = [v for v, label in zip(values, labels, strict=True) if label == i]
                centres[i] = sum(own) / len(own) if own else centres[i]
    return centres, labels


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=30),
    st.integers(2, 6),
    st.integers(0, 5),
)
def test_k_means_is_lloyds_loop(values: list[int], k: int, rounds: int) -> None:
    apart = np.random.default_rng(0).uniform(0, 0.1, len(values))  # so that nothing ties
    exact = np.array(values) + apart
    found = codebook.kmeans(exact, k, rounds)
    centres, labels = lloyd(exact, k, rounds)
    assert np.allclose(found.centres, centres, atol=1e-9)
    assert found.labels.tolist() == labels


def test_k_means_is_scipys() -> None:
    from scipy.cluster.vq import kmeans2

    values = np.random.default_rng(0).normal(size=500)
    begin = np.linspace(values.min(), values.max(), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters that are empty
        centres, labels = kmeans2(values, begin, iter=7, minit="matrix")
    found = codebook.kmeans(values, 8, 7)
    assert np.allclose(found.centres, centres)
    # scipy labels before it moves the centres for the last time
    assert np.array_equal(codebook.kmeans(values, 8, 6).labels, labels)


def test_a_codebook_leaves_that_many_values_in_each_weight() -> None:
    given_ = subject()
    step = codebook.apply(given_, bits=2)
    assert step.weights is not None
    for value in step.weights.values.values():
        assert len(value.unique()) == 4
    assert {c.target for c in step.changes} == {"conv1", "conv2", "conv3", "fc"}
    assert all(c.after is not None and c.before is not None for c in step.changes)


def test_the_size_of_a_codebook_is_its_numbers_and_its_values() -> None:
    step = codebook.apply(replace(subject(), ops=("fc",)), bits=3)
    numbers, floats = 320 * 3 // 8, 8 + 5  # 8 values and 5 scales
    assert step.record["indexed_bytes_after"] == numbers + 4 * floats


def test_a_codebook_that_saves_nothing_is_refused() -> None:
    with pytest.raises(TuneError) as caught:
        codebook.apply(replace(subject(), ops=("conv1",)), bits=7)
    assert str(caught.value) == (
        "Codebook: no weight would take fewer bytes than it does now. Ask for fewer bits or "
        "steps, or for more zeros."
    )


# -- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 32])
def test_codes_are_a_subset_of_num_steps_values_with_zero(count: int) -> None:
    given_ = subject()
    before = codes_after(given_, Step(given_.recipe, None, ()))
    step = nuq.apply(given_, num_steps=count)
    for op, codes in codes_after(given_, step).items():
        assert len(np.unique(codes)) <= count
        chosen = np.union1d(np.unique(codes), [0])
        # each code became the nearest of the chosen ones, up to what rounding twice may do
        distance = np.abs(before[op][..., None].astype(int) - chosen).min(-1)
        assert (np.abs(before[op].astype(int) - codes) <= distance + 1).all()


def test_a_step_subset_stays_on_the_grid_it_was_chosen_on() -> None:
    given_ = subject()
    after = given_.after(nuq.apply(given_, num_steps=8))
    for operand, bits in sizes.int8_weights(given_.simulator, given_.recipe).values():
        old, new = (
            s.simulator.weight(operand, bits, s.recipe.per_channel)[0] for s in (given_, after)
        )
        assert torch.equal(old.scale, new.scale)
        value = after.simulator.program.parameter(operand.tensor)
        codes = quantize(value, new).float()
        assert torch.equal(codes * new.scale.reshape(-1, *[1] * (codes.dim() - 1)), value)


@given(st.lists(st.integers(-1270, 1270), min_size=1, max_size=40), st.integers(2, 12))
def test_the_error_of_a_subset_never_grows(tenths: list[int], count: int) -> None:
    values = np.array(tenths) / 10
    steps = nuq.first_steps(min(0, round(values.min())), max(0, round(values.max())), count)
    errors = []
    for _ in range(6):
        errors.append(float(((values - nuq.nearest(values, steps)) ** 2).sum()))
        assert 0 in steps
        assert len(steps) <= count
        steps = nuq.choose_steps(values, steps, 1)
    assert all(b <= a + 1e-9 for a, b in pairwise(errors))


def test_steps_by_hand() -> None:
    assert nuq.first_steps(-100, 120, 5).tolist() == [-100, -45, 0, 65, 120]
    values = np.array([-100.0, -98.0, 1.0, 3.0, 60.0, 61.0, 61.0, 120.0])
    # -100 and -98 meet in -99; 60, 61, 61 and 120 in 75.5, which rounds to even
    assert nuq.choose_steps(values, np.array([-100, 0, 65]), 9).tolist() == [-99, 0, 76]


# -- pruning ------------------------------------------------------------------------------------


def test_exactly_the_smallest_weights_become_zero() -> None:
    weight = torch.tensor([[0.3, -0.1, 0.2], [-0.1, 5.0, -0.4]])
    assert pruning.kept(weight, 0.5).tolist() == [[True, False, False], [False, True, True]]
    assert pruning.kept(weight, 0.17).tolist() == [[True, False, True], [True, True, True]]
    assert pruning.kept(weight, 0.0).all()


@pytest.mark.parametrize(("name", "options"), [("codebook", {"bits": 2}), ("nuq", {})])
def test_what_was_pruned_stays_zero(name: str, options: dict[str, int]) -> None:
    given_ = subject()
    first = pruning.apply(given_, share=0.4)
    then = given_.after(first)
    after = then.after(METHODS[name].module.apply(then, **options))
    for parameter, value in (first.weights or TunedWeights()).values.items():
        pruned = value == 0
        assert int(pruned.sum()) == int(0.4 * value.numel())
        assert not after.simulator.program.parameter(parameter)[pruned].any()


def test_pruning_last_leaves_a_step_subset_one() -> None:
    given_ = subject()
    first = nuq.apply(given_, num_steps=6)
    then = given_.after(first)
    codes = codes_after(then, pruning.apply(then, share=0.5))
    for op, kept in codes_after(given_, first).items():
        assert set(np.unique(codes[op])) <= {*np.unique(kept), 0}
        assert (codes[op] == 0).mean() >= 0.49


def test_the_mask_is_in_the_record() -> None:
    records = [pruning.apply(subject(), share=s).record for s in (0.2, 0.2, 0.3)]
    assert records[0]["mask conv1"] == records[1]["mask conv1"] != records[2]["mask conv1"]
    assert records[0]["zeros_after"] == 21 + 28 + 28 + 64


# -- what all three share -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"), [("codebook", {"bits": 2}), ("nuq", {"num_steps": 8}), ("pruning", {})]
)
def test_a_method_makes_the_stored_weights_smaller_and_leaves_the_subject_alone(
    name: str, options: dict[str, int]
) -> None:
    given_ = subject()
    own = {k: v.clone() for k, v in given_.graph.module.state_dict().items()}
    method = METHODS[name]
    sites = method.module.sites(given_)
    step = method.module.apply(given_, **options)
    assert [c.target for c in step.changes] == list(sites) == ["fc", "conv2", "conv3", "conv1"]
    if name != "pruning":  # tables of so few weights outweigh what zeros save
        assert all(c.after < c.before for c in step.changes if c.after and c.before)
    assert step.record["entropy_bytes_after"] < step.record["entropy_bytes_before"]  # type: ignore[operator]
    assert {o.name for o in method.module.OPTIONS} == inspect.signature(
        method.module.apply
    ).parameters.keys() - {"subject"}
    now = given_.graph.module.state_dict()
    assert all(torch.equal(now[k], v) for k, v in own.items())


@pytest.mark.parametrize("name", ["codebook", "nuq", "pruning"])
def test_without_integer_weights_there_is_nothing_to_change(name: str) -> None:
    given_ = subject(overrides=(Override("kind:weight", int8=False),))
    with pytest.raises(TuneError) as caught:
        METHODS[name].module.apply(given_)
    assert str(caught.value) == (
        f"{METHODS[name].title}: no op has an integer weight that it could change. Give a recipe "
        "whose weights are integers, or name other ops."
    )


def test_only_the_ops_asked_for_change() -> None:
    step = nuq.apply(replace(subject(), ops=("conv2",)), num_steps=4)
    assert [c.target for c in step.changes] == ["conv2"]
    assert step.weights is not None
    assert list(step.weights.values) == ["conv2.weight"]


def test_a_weight_that_several_ops_read_is_left_alone() -> None:
    step_of = pruning.sites(subject("twins"))
    assert step_of == ()


def test_weights_of_few_codes_are_left_alone_and_named() -> None:
    given_ = subject(overrides=(Override("conv2/weight", bits=3),))
    step = nuq.apply(given_, num_steps=8)
    assert "conv2" not in {c.target for c in step.changes}
    assert step.notes == ("conv2 is left alone: nothing would be saved",)


def test_a_weight_that_is_not_finite_is_named() -> None:
    given_ = subject()
    broken = given_.simulator.program.parameter("conv2.weight").clone()
    broken[0, 0, 0, 0] = torch.nan
    then = replace(
        given_, simulator=given_.after(
            Step(given_.recipe, TunedWeights({"conv2.weight": broken}), ())
        ).simulator,
    )  # fmt: skip
    with pytest.raises(NotFiniteError, match=r"weight conv2\.weight: has NaN"):
        codebook.apply(then)


def test_cancelling_passes() -> None:
    def stop(progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        nuq.apply(replace(subject(), progress=stop))


# -- checkpoints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sizes") / "int4"
    save_checkpoint(make("residual CNN", Override("head", bits=8), weight_bits=4).lowered, folder)
    return folder


def test_every_stream_of_a_checkpoint_decodes_to_its_codes(folder: Path) -> None:
    seen: list[Progress] = []
    found = checkpoint_sizes(folder, progress=seen.append)
    lowered = make("residual CNN", Override("head", bits=8), weight_bits=4).lowered
    assert [row.name for row in found.weights] == list(lowered.weights)
    assert [p.message for p in seen] == list(lowered.weights)
    for row in found.weights:
        weight = lowered.weights[row.name]
        stream = sizes.encoded(weight.codes.numpy(), row.form)
        assert row.coded_bytes == len(stream) + weight.scale.nbytes
        assert np.array_equal(sizes.decoded(stream, row.form), weight.codes.numpy().ravel())
    stored = sum(t.nbytes for t in lowered.module.state_dict().values())
    assert found.total.packed_bytes + found.rest_bytes < stored


def test_sizes_of_a_recipe_are_those_of_its_checkpoint(folder: Path) -> None:
    made = make("residual CNN", Override("head", bits=8), weight_bits=4)
    rows = sizes.weight_sizes(made.simulator, made.recipe)
    kept = checkpoint_sizes(folder).weights
    assert {r.name + ".weight": replace(r, name="") for r in rows} == {
        r.name: replace(r, name="") for r in kept
    }
    only = sizes.weight_sizes(made.simulator, made.recipe, ["head"])
    assert [r.name for r in only] == ["head"]


def test_qviz_sizes_prints_every_form(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sizes", str(folder), "--quiet", "--top", "2"]) == 0
    text = capsys.readouterr().out
    assert "the 2 largest weights, 4 more in the total" in text
    for word in ("packed", "indexed", "Huffman", "entropy", "smallest", "model.safetensors"):
        assert word in text
    assert main(["sizes", str(folder), "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["packed_bytes"] == sum(r["packed_bytes"] for r in found["weights"])


def test_qviz_sizes_of_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sizes", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"qviz: {tmp_path}: it is no checkpoint, or writing it was interrupted: checkpoint.json is "
        "missing. Name a folder that qviz export wrote, or export again.\n"
    )


def test_a_codebook_does_not_clip_its_values_where_the_old_ones_were_clipped() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
    given_ = of_module(model, torch.randn(64, 16))
    given_ = replace(given_, recipe=replace(given_.recipe, weight_bits=4))
    clipped = given_.after(weight_range.apply(given_))
    step = codebook.apply(clipped, bits=3)
    made = clipped.after(step)
    fresh = replace(made, simulator=Simulator(replace(made.graph, limits={})))
    assert [c.target for c in step.changes] == ["0", "2"]
    first, second = codes_of_all(made), codes_of_all(fresh)
    assert all(np.array_equal(first[op], second[op]) for op in first)


def test_a_codebook_larger_than_the_grid_is_named() -> None:
    with pytest.raises(TuneError) as caught:
        codebook.apply(subject("residual", weight_bits=4), bits=6)
    assert str(caught.value) == (
        f"{codebook.TITLE}: every weight has no more codes than it would get already. Ask for "
        "fewer bits or steps."
    )


def test_one_scale_per_tensor_is_stored_once() -> None:
    each, one = (
        sizes.weight_sizes(s.simulator, s.recipe)
        for s in (subject("residual", per_channel=p) for p in (True, False))
    )
    assert [row.int8_bytes - row.count for row in one] == [4] * len(one)
    assert all(many.int8_bytes - many.count > 4 for many in each)
