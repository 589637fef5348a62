"""Codes below 8 bits: two to a byte in a checkpoint, and exact on every kernel."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from int8_models import CASES, Made, make
from int8_oracle import assert_agrees, expected_conv, random_codes, random_reals
from safetensors.torch import load_file
from torch.utils import _pytree as pytree

from qviz import cli_checkpoint
from qviz.data import as_data
from qviz.errors import RangeError, ShapeError
from qviz.int8 import folder as files
from qviz.int8 import reference, selftest
from qviz.int8 import verify as verifying
from qviz.int8.checkpoint import load_checkpoint, save_checkpoint
from qviz.int8.checkpoint_sizes import checkpoint_sizes, form_bytes
from qviz.int8.epilogue import Epilogue
from qviz.int8.int4 import pack_int4, unpack_int4
from qviz.int8.verify import verify
from qviz.recipe import Override

Q = torch.ops.qviz

#: Every width from 2 to 8, for weights and activations of the residual CNN.
MIXED = (
    Override("stem", bits=8),
    Override("depthwise/weight", bits=7),
    Override("depthwise/input", bits=3),
    Override("point/weight", bits=6),
    Override("point/input", bits=2),
    Override("left/weight", bits=3),
    Override("left/input", bits=5),
    Override("right/weight", bits=2),
    Override("right/input", bits=6),
    Override("head/weight", bits=5),
    Override("head/input", bits=7),
)


def mixed() -> Made:
    return make("residual CNN", *MIXED, weight_bits=4, activation_bits=4)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "int4"
    save_checkpoint(mixed().lowered, folder)
    return folder


@given(st.lists(st.integers(-8, 7), max_size=40), st.sampled_from([(-1,), (1, -1), (-1, 1, 1)]))
def test_packed_codes_come_back(values: list[int], shape: tuple[int, ...]) -> None:
    codes = torch.tensor(values, dtype=torch.int8).reshape(
        [len(values) if n < 0 else n for n in shape]
    )
    packed = pack_int4(codes)
    assert packed.dtype is torch.uint8
    assert packed.shape == ((len(values) + 1) // 2,)
    assert torch.equal(unpack_int4(packed, codes.shape), codes)
    assert torch.equal(Q.unpack_int4(packed, codes.shape), codes)


def test_the_first_code_is_the_low_half_of_a_byte() -> None:
    packed = pack_int4(torch.tensor([[1, -8, -1], [7, 0, 3]], dtype=torch.int8))
    assert [f"{byte:#04x}" for byte in packed.tolist()] == ["0x81", "0x7f", "0x30"]


def test_codes_are_packed_in_their_order_whatever_the_layout() -> None:
    codes = random_codes(3, 4, 3, 2) >> 4
    last = codes.contiguous(memory_format=torch.channels_last)
    assert torch.equal(pack_int4(last), pack_int4(codes))


def test_codes_that_need_more_than_half_a_byte_are_refused() -> None:
    with pytest.raises(RangeError) as caught:
        pack_int4(torch.tensor([3, 8], dtype=torch.int8))
    assert str(caught.value) == (
        "codes from 3 to 8: half a byte holds -8 to 7. Store them as int8."
    )


def test_bytes_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        Q.unpack_int4(torch.zeros(3, dtype=torch.uint8), [2, 2])
    assert str(caught.value) == (
        "packed codes: 3 of torch.uint8 do not hold 4 codes of half a byte. Give the bytes that "
        "pack_int4 made, and the shape of what it was given."
    )


@pytest.mark.parametrize("case", ["residual CNN", "1d", "products"])
@pytest.mark.parametrize("activations", [8, 4])
def test_a_packed_checkpoint_runs_like_the_lowered_model(
    case: str, activations: int, tmp_path: Path
) -> None:
    made = make(case, weight_bits=4, activation_bits=activations)
    save_checkpoint(made.lowered, tmp_path)
    loaded = load_checkpoint(tmp_path)
    alone = torch.export.load(tmp_path / "model.pt2").module()
    batch = CASES[case].inputs(3)
    with torch.no_grad():
        wanted = pytree.tree_leaves(made.lowered.module(*batch.args))
        for program in (loaded, alone):
            found = pytree.tree_leaves(program(*batch.args))
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_nothing_is_unpacked_while_a_loaded_checkpoint_runs(written: Path) -> None:
    program = load_checkpoint(written).program
    assert not any("unpack" in str(n.target) for n in program.graph.nodes)
    weights = dict(program.named_buffers())
    assert weights["left.weight"].dtype is torch.int8
    assert not any(name.endswith("_packed") for name in weights)


def test_the_file_holds_narrow_weights_packed_and_the_others_as_they_are(written: Path) -> None:
    tensors = load_file(written / "model.safetensors")
    entries = json.loads((written / "checkpoint.json").read_text(encoding="utf-8"))["weights"]
    assert {e["bits"] for e in entries.values()} == {2, 3, 5, 6, 7, 8}
    for name, entry in entries.items():
        narrow = entry["bits"] <= 4
        assert entry["packing"] == ("int4" if narrow else "int8")
        assert (f"{name}_packed" in tensors) == narrow
        assert (name in tensors) != narrow
    codes = mixed().lowered.weights["left.weight"].codes
    assert torch.equal(unpack_int4(tensors["left.weight_packed"], codes.shape), codes)


def test_a_rounded_weight_of_a_float_op_is_packed_too(tmp_path: Path) -> None:
    made = make("residual CNN", Override("kind:activation", int8=False), weight_bits=4)
    save_checkpoint(made.lowered, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["head.weight_packed"].shape == (720,)
    loaded = load_checkpoint(tmp_path)
    (x,) = made.batch.args
    with torch.no_grad():
        assert torch.equal(loaded(x), made.lowered.module(x))
        half = loaded.to(torch.float16)(x)
    assert half.isfinite().all()
    assert dict(loaded.program.named_buffers())["head.weight"].dtype is torch.float16


def test_a_packed_program_takes_half_the_bytes_for_its_weights(tmp_path: Path) -> None:
    for bits in (8, 4):
        save_checkpoint(make("3d", weight_bits=bits).lowered, tmp_path / str(bits))
    narrow, wide = (load_file(tmp_path / b / "model.safetensors") for b in "48")
    held = {n: t.nbytes for n, t in wide.items() if t.dtype is torch.int8}
    assert {n: narrow[f"{n}_packed"].nbytes for n in held} == {n: b // 2 for n, b in held.items()}
    programs = [(tmp_path / b / "model.pt2").stat().st_size for b in "48"]
    assert programs[0] < programs[1] + 2000  # the calls that unpack are text


def test_a_checkpoint_without_packed_weights_is_of_the_first_version(
    written: Path, tmp_path: Path
) -> None:
    save_checkpoint(make("1d").lowered, tmp_path)
    assert files.read_manifest(tmp_path)["version"] == 1
    assert files.read_manifest(written)["version"] == 2


def test_a_checkpoint_of_before_packing_still_loads(tmp_path: Path) -> None:
    save_checkpoint(make("1d").lowered, tmp_path)
    manifest = files.read_manifest(tmp_path)
    for entry in manifest["weights"].values():
        del entry["packing"]
    contents = {n: (tmp_path / n).read_bytes() for n in manifest["files"]}
    files.write_folder(tmp_path, contents, manifest)
    batch = CASES["1d"].inputs(2)
    with torch.no_grad():
        wanted = make("1d").lowered.module(*batch.args)
    assert torch.equal(load_checkpoint(tmp_path)(*batch.args), wanted)
    assert {row.bits for row in checkpoint_sizes(tmp_path).weights} == {8}


def test_every_width_from_2_to_8_is_certified_exact(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "TIMING_SECONDS", 0.0)
    data = as_data(make("residual CNN").batch.args[0], "data")
    found = verify(written, data, latency_batches=()).backend("cpu")
    assert found.verdict == "passed"
    assert (found.parity.one_step, found.parity.more) == (0, 0)
    assert found.same_class == 1.0


def test_codes_of_what_is_never_negative_begin_at_zero_below_8_bits(written: Path) -> None:
    grids = load_checkpoint(written).manifest["activations"]
    limits = {
        name: {int(bits): (grid["quant_min"], grid["quant_max"]) for bits, grid in found.items()}
        for name, found in grids.items()
    }
    assert limits == {
        "x": {8: (-128, 127)},
        "relu": {3: (0, 7), 4: (0, 15)},
        "relu6": {2: (0, 3)},
        "relu.1": {5: (0, 31), 6: (0, 63)},
        "cat": {7: (-64, 63)},
    }


@pytest.fixture(params=["auto", "exact"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(selftest.VARIABLE, request.param)
    selftest.forget()
    yield request.param
    selftest.forget()


def unsigned(*shape: int, bits: int) -> torch.Tensor:
    """Codes from 0 to the largest of so many bits, both among them."""
    codes = random_codes(*shape).to(torch.int32).add(128).remainder(1 << bits).to(torch.int8)
    codes.view(-1)[:2] = torch.tensor([0, (1 << bits) - 1])
    return codes


WINDOWS = {
    "3x3": ((2, 16, 7, 6), (24, 16, 3, 3), [1, 1], 1),
    "depthwise": ((2, 16, 7, 6), (16, 1, 3, 3), [1, 1], 16),
    "1x1 of odd channels": ((2, 13, 5, 5), (7, 13, 1, 1), [0, 0], 1),
    "1d": ((2, 16, 9), (8, 16, 3), [1], 1),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_a_convolution_of_unsigned_codes_is_exact(bits: int, name: str, backend: str) -> None:
    size, kernel, padding, groups = WINDOWS[name]
    ones = [1] * len(padding)
    x, weight = unsigned(*size, bits=bits), random_codes(*kernel, low=-127)
    scale, bias = random_reals(kernel[0]).abs() * 0.01 + 1e-3, random_reals(kernel[0], seed=1)
    window = (ones, padding, ones, groups)
    plain = expected_conv(x, 0.043, weight, scale, bias, window, None, Epilogue())
    top = (1 << bits) - 1
    then = Epilogue("relu", (), float(plain.max()) / (1.2 * top), 0, top)  # some are cut off
    found = Q.conv(
        x, 0.043, weight, scale, bias, *window, None, 1.0, "relu", [], then.out_scale, 0, then.qmax,
        x_qmin=0,
    )  # fmt: skip
    assert 0 <= int(found.min()) <= int(found.max()) == top
    assert_agrees(found, expected_conv(x, 0.043, weight, scale, bias, window, None, then), then)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_products_of_unsigned_codes_are_exact(bits: int, backend: str) -> None:
    x, weight = unsigned(70, 128, bits=bits), random_codes(21, 128, low=-7) >> 4
    scale = random_reals(21).abs() * 0.01 + 1e-3
    sums = reference.codes(x) @ reference.codes(weight).T
    assert_agrees(
        Q.linear(x, 0.043, weight, scale, None, x_qmin=0),
        reference.scaled(sums, 0.043, scale, None, 1),
        Epilogue(),
    )
    a, b = unsigned(2, 80, 64, bits=bits), random_codes(2, 64, 80) >> 4
    sums = reference.codes(a) @ reference.codes(b)
    wanted = sums * np.float64(np.float32(0.043) * np.float32(0.02))
    assert_agrees(Q.matmul(a, 0.043, b, 0.02), wanted, Epilogue())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_rounding_to_unsigned_codes_ends_at_zero_and_at_the_largest(bits: int) -> None:
    x = torch.tensor([-3.0, -0.4, 0.0, 0.5, 1.5, 2.4, 1e9])
    top = (1 << bits) - 1
    found = Q.quantize(x, 1.0, 0, top)
    assert found.dtype is torch.int8
    assert found.tolist() == [0, 0, 0, 0, 2, 2, top]


def test_sums_of_unsigned_codes_keep_their_grids() -> None:
    a, b = unsigned(3, 5, bits=4), unsigned(3, 5, bits=6)
    out = Q.add(a, 0.5, b, 0.125, "relu", [], 0.25, 0, 127)
    wanted = np.rint((reference.codes(a) * 0.5 + reference.codes(b) * 0.125) * 4)
    assert np.array_equal(out.numpy(), np.clip(wanted, 0, 127))


def test_triton_kernels_compute_unsigned_codes_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from cuda_kit import interpreted

    monkeypatch.setenv(selftest.VARIABLE, "exact")
    selftest.forget()
    with interpreted() as operators:
        for bits, name in product((2, 4, 7), ("3x3", "depthwise")):
            size, kernel, padding, groups = WINDOWS[name]
            head = (unsigned(*size, bits=bits), 0.043, random_codes(*kernel, low=-7) >> 4)
            scale = random_reals(kernel[0]).abs() * 0.01 + 1e-3
            after: Any = (None, 1.0, "relu", [], 0.07, 0, (1 << bits) - 1)
            args: Any = (*head, scale, None, [1, 1], padding, [1, 1], groups, *after)
            assert torch.equal(operators.conv(*args), Q.conv(*args))
        x, weight = unsigned(20, 64, bits=4), random_codes(32, 64) >> 4
        args = (x, 0.1, weight, torch.ones(32), None, None, 1.0, "none", [], 3.0, 0, 15)
        assert torch.equal(operators.linear(*args), Q.linear(*args))
        a, b = unsigned(2, 20, 64, bits=4), unsigned(2, 64, 20, bits=6)
        assert torch.equal(operators.matmul(a, 0.1, b, 0.1), Q.matmul(a, 0.1, b, 0.1))
        real = random_reals(2, 8, 6, 5) * 5
        assert torch.equal(operators.quantize(real, 0.7, 0, 3), Q.quantize(real, 0.7, 0, 3))
    selftest.forget()


def test_a_loaded_mixed_checkpoint_is_the_same_on_triton_kernels(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from cuda_kit import OnKernels, interpreted

    monkeypatch.setenv(selftest.VARIABLE, "exact")
    selftest.forget()
    loaded = load_checkpoint(written)
    (x,) = CASES["residual CNN"].inputs(2).args
    with interpreted() as operators, torch.no_grad():
        found = OnKernels(loaded.program, operators).run(x)
        assert torch.equal(pytree.tree_leaves(found)[0], loaded(x))
    selftest.forget()


def test_qviz_export_prints_what_the_weights_take_in_each_form() -> None:
    sizes = {"float": 4_000_000, "int8": 1_000_000, "int4": 512_000}
    options = argparse.Namespace(output=Path("out"))
    text = cli_checkpoint._exported(options, {"checkpoint": {"folder": "out", "sizes": sizes}})
    assert text.splitlines()[1] == "weights      float 4.00 MB, int8 1.00 MB, int4 512 kB"


def test_sizes_say_what_packing_saves(written: Path, tmp_path: Path) -> None:
    found = form_bytes(files.read_manifest(written))
    assert found["int4"] == (written / "model.safetensors").stat().st_size
    left, right = 8 * 16 * 9, 8 * 16 * 9
    assert found["int8"] - found["int4"] == (left + right) // 2
    save_checkpoint(make("1d").lowered, tmp_path)
    assert set(form_bytes(files.read_manifest(tmp_path))) == {"float", "int8"}
