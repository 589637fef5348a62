"""CalibTIP's files and our own: what is written is read again, what is damaged is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from allocation_kit import W2, W4, bench, losses

from qviz.errors import FormatError, TuneError
from qviz.export.calibtip_csv import read_losses, read_widths, texts
from qviz.int8.timing_file import times_in, write_benches
from qviz.search.allocation import allocate
from qviz.search.allocation_json import (
    allocation_from,
    allocation_to,
    frontier_from,
    frontier_to,
    losses_from,
    losses_to,
)
from qviz.search.allocation_problem import Problem
from qviz.search.frontier import frontier
from qviz.search.latency import times_of
from qviz.search.widths import BASE, Layer, Limit, Width

LOSSES = losses({"conv1": {W4: 0.22, W2: 1.5}, "fc": {W4: 0.01, W2: 0.5}}, {"conv1": 432}, base=0.2)
CALIBTIP = """\
base precision,replaced precision,replaced layer,accuracy,loss,Parameters Size [Elements],MACs
8,4,-,93.1,0.21,-,-
8,4,conv1,92.9,0.22,432,-
8,4,module.fc,93.0,0.215,1000,-
"""
#: Weights of ResNet-18, and what CalibTIP allots 4 bits to at three sizes (its configs folder).
RESNET18 = {
    "conv1": 9408,
    **{f"layer1.{b}.conv{c}": 36864 for b in (0, 1) for c in (1, 2)},
    "layer2.0.conv1": 73728, "layer2.0.conv2": 147456, "layer2.0.downsample.0": 8192,
    "layer2.1.conv1": 147456, "layer2.1.conv2": 147456,
    "layer3.0.conv1": 294912, "layer3.0.conv2": 589824, "layer3.0.downsample.0": 32768,
    "layer3.1.conv1": 589824, "layer3.1.conv2": 589824,
    "layer4.0.conv1": 1179648, "layer4.0.conv2": 2359296, "layer4.0.downsample.0": 131072,
    "layer4.1.conv1": 2359296, "layer4.1.conv2": 2359296, "fc": 512000,
}  # fmt: skip
CONFIGS = """\
Compression thr\tLayers in int4
0.13\t['layer2.0.conv2', 'layer2.1.conv1', 'layer2.1.conv2', 'layer3.0.conv1', 'layer3.0.conv2', \
'layer3.1.conv1', 'layer3.1.conv2', 'layer4.0.conv1', 'layer4.0.conv2', 'layer4.1.conv1', \
'layer4.1.conv2', 'fc']
0.17\t['layer4.0.conv1', 'layer4.0.conv2', 'layer4.1.conv1', 'layer4.1.conv2']
0.20\t['layer4.0.conv2', 'layer4.1.conv1']
"""


def write(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


def layers(sizes: dict[str, int]) -> list[Layer]:
    return [Layer(name, (name,), size, 0) for name, size in sizes.items()]


OURS = layers({"conv1": 432, "fc": 1000})


def test_losses_written_for_calibtip_are_read_again(tmp_path: Path) -> None:
    paths = write(tmp_path, texts(LOSSES))
    assert [path.name for path in paths] == [
        "per_layer_accuracy.A4.W4.csv",
        "per_layer_accuracy.A2.W2.csv",
    ]
    found = read_losses(paths, LOSSES.layers, 0)
    assert (found.layers, found.base_loss) == (LOSSES.layers, LOSSES.base_loss)
    assert found.rows == LOSSES.rows


def test_what_gets_no_width_is_counted_though_no_file_has_it(tmp_path: Path) -> None:
    found = read_losses(write(tmp_path, texts(LOSSES)), LOSSES.layers, 50)
    assert found.rest == 50
    assert Problem.of(found).base().costs.bytes == 432 + 1000 + 4 * 50


def test_a_metric_goes_as_accuracy_in_per_cent(tmp_path: Path) -> None:
    rows = tuple(replace(row, metric=0.5) for row in LOSSES.rows)
    made = replace(LOSSES, rows=rows, metric="top1", base_metric=0.75)
    assert "8,4,-,75,0.2,-,-" in texts(made)["per_layer_accuracy.A4.W4.csv"]
    found = read_losses(write(tmp_path, texts(made)), LOSSES.layers, 0)
    assert found.base_metric == 0.75
    assert {row.metric for row in found.rows} == {0.5}
    assert found.by_metric().increase_of["fc", W4] == 0.25


def test_calibtips_own_file_is_read(tmp_path: Path) -> None:
    name = "resnet.absorb_bn.measure_perC.adaquant.per_layer_accuracy.A4.W4.csv"
    found = read_losses(write(tmp_path, {name: CALIBTIP}), OURS, 0)
    assert (found.base_loss, found.base_metric) == pytest.approx((0.21, 0.931))
    assert [(r.layer, r.width, r.loss) for r in found.rows] == [
        ("conv1", W4, 0.22),
        ("fc", W4, 0.215),
    ]
    assert allocate(Problem.of(found), Limit("size", 0.2)).of == {"conv1": BASE, "fc": W4}


def test_the_width_is_in_the_name_or_else_in_the_column(tmp_path: Path) -> None:
    paths = write(tmp_path, {"per_layer_accuracy.A8.W4.csv": CALIBTIP, "other.csv": CALIBTIP})
    assert {row.width for row in read_losses(paths[:1], OURS, 0).rows} == {Width(4, 8)}
    assert {row.width for row in read_losses(paths[1:], OURS, 0).rows} == {W4}


def test_losses_count_from_the_base_of_their_own_file(tmp_path: Path) -> None:
    other = CALIBTIP.replace("0.21,", "0.31,").replace("0.22,", "0.52,").replace("8,4,", "8,2,")
    paths = write(tmp_path, {"four.csv": CALIBTIP, "two.csv": other})
    found = read_losses(paths, OURS, 0)
    assert found.increase_of["conv1", W4] == pytest.approx(0.01)
    assert found.increase_of["conv1", W2] == pytest.approx(0.21)


def test_the_base_measured_once_more_is_no_choice(tmp_path: Path) -> None:
    paths = write(tmp_path, {"per_layer_accuracy.A8.W8.csv": CALIBTIP})
    assert read_losses(paths, OURS, 0).rows == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "loss,",
            "Loss,",
            "has no column 'loss'. Name a per-layer CSV file of CalibTIP or of qviz export "
            "--formats calibtip-csv.",
        ),
        ("0.22,432", "bad,432", ", line 3: loss is 'bad', not a finite number. Correct it."),
        ("0.22,432", "nan,432", ", line 3: loss is 'nan', not a finite number. Correct it."),
        (
            "8,4,conv1",
            "8,nan,conv1",
            ", line 3: replaced precision is 'nan', not a finite number. Correct it.",
        ),
        (
            "8,4,conv1",
            "8,1,conv1",
            ", line 3: replaced precision is '1', not a number of bits from 2 to 8. Correct it.",
        ),
        (
            "0.22,432",
            "0.22,inf",
            ", line 3: Parameters Size [Elements] is 'inf', not a finite number. Correct it.",
        ),
        ("conv1", "", ", line 3: names no layer. Name it, or - for none."),
        ("0.22,432", "-,432", ", line 3: has no loss. Measure that layer again."),
        (
            "conv1,92.9,0.22,432",
            "conv1,92.9,0.22,433",
            ", line 3: conv1 has 433 weights there, 432 here. Name the losses of this model.",
        ),
        (
            "conv1",
            "conv_1",
            ": conv_1: the model has no such layer; conv1 comes nearest. Name a file of this "
            "model.",
        ),
        (
            "8,4,-,93.1,0.21,-,-\n",
            "",
            "has no row of the base, whose layer is -. Let CalibTIP write it whole.",
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    (path,) = write(tmp_path, {"losses.csv": CALIBTIP.replace(old, new)})
    with pytest.raises(FormatError) as caught:
        read_losses([path], OURS, 0)
    joint = "" if said.startswith((",", ":")) else ": "
    assert str(caught.value) == f"{path}{joint}{said}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        read_losses([tmp_path / "none.csv"], OURS, 0)
    assert str(caught.value) == (
        f"{tmp_path / 'none.csv'}: no such file or directory. Name a file of CalibTIP."
    )


@pytest.mark.parametrize("size", [0.13, 0.17, 0.2])
def test_calibtips_allocations_have_the_size_that_it_says(tmp_path: Path, size: float) -> None:
    (path,) = write(tmp_path, {"configs_resnet18.txt": CONFIGS})
    own = losses({name: {W4: 1.0} for name in RESNET18}, RESNET18)
    widths = read_widths(path, own.layers, size)
    found = Problem.of(own).allocation(widths, None, "given")
    assert size - 0.01 < found.costs.size <= size
    assert found.summary == f"W4A4 {list(widths.values()).count(W4)}, W8A8 " + str(
        list(widths.values()).count(BASE)
    )


def test_a_row_that_is_not_there_is_named(tmp_path: Path) -> None:
    (path,) = write(tmp_path, {"configs_resnet18.txt": CONFIGS})
    with pytest.raises(FormatError) as caught:
        read_widths(path, layers(RESNET18), 0.15)
    assert (
        str(caught.value) == f"{path}: has the sizes 0.13, 0.17, 0.2. Name one of them with --size."
    )


def test_the_result_of_its_programme_gives_both_widths(tmp_path: Path) -> None:
    text = "Compression thr\tExperiment\tConfiguration\n0.15\t0\t{'conv1': [8, 8], 'fc': [4, 8]}\n"
    (path,) = write(tmp_path, {"IP_resnet50_loss.txt": text})
    assert read_widths(path, OURS) == {"conv1": BASE, "fc": Width(4, 8)}


def test_a_text_that_is_no_allocation_is_named(tmp_path: Path) -> None:
    (path, other) = write(
        tmp_path,
        {"a.txt": "what\tever\n1\t2\n", "b.txt": "Compression thr\tLayers in int4\n1\tfc\n"},
    )
    with pytest.raises(FormatError) as caught:
        read_widths(path, OURS)
    assert str(caught.value) == (
        f"{path}: has no columns 'Compression thr' and 'Layers in int4' or 'Configuration'. Name a "
        "configs_MODEL.txt or IP_MODEL_loss.txt of CalibTIP."
    )
    with pytest.raises(FormatError) as caught:
        read_widths(other, OURS)
    assert str(caught.value) == f"{other}: 'fc' is no list of layers. Let CalibTIP write it again."


CONFIGURED = "Compression thr\tConfiguration\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Compression thr\tLayers in int4\n\t[]\n",
            ", line 2: has no Compression thr. Let CalibTIP write it again.",
        ),
        (
            "Compression thr\tLayers in int4\nnan\t[]\n",
            ", line 2: Compression thr is 'nan', not a finite number. Correct it.",
        ),
        (
            "Compression thr\tLayers in int4\n0.15\n",
            ": '' is no list of layers. Let CalibTIP write it again.",
        ),
        (
            "Compression thr\tLayers in int4\n0.15\t'fc'\n",
            ": \"'fc'\" is no list of layers. Let CalibTIP write it again.",
        ),
        (
            CONFIGURED + "0.15\t{'fc': [1, 8]}\n",
            ": fc: [1, 8] are not two numbers of bits from 2 to 8. Correct it.",
        ),
        (
            CONFIGURED + "0.15\t{'fc': [1e999, 8]}\n",
            ": fc: [inf, 8] are not two numbers of bits from 2 to 8. Correct it.",
        ),
    ],
)
def test_a_damaged_allocation_is_named(tmp_path: Path, text: str, said: str) -> None:
    (path,) = write(tmp_path, {"configs.txt": text})
    with pytest.raises(FormatError) as caught:
        read_widths(path, OURS)
    assert str(caught.value) == f"{path}{said}"


def test_everything_is_the_same_after_json() -> None:
    problem = Problem.of(LOSSES)
    found = frontier(problem)
    allocation = allocate(problem, Limit("size", 0.2))
    assert losses_from(json.loads(json.dumps(losses_to(LOSSES)))) == LOSSES
    assert allocation_from(json.loads(json.dumps(allocation_to(allocation)))) == allocation
    assert frontier_from(json.loads(json.dumps(frontier_to(found)))) == found


def test_times_of_a_width_are_those_of_a_program_at_it() -> None:
    found = times_of({BASE: bench(conv1=5.0, fc=2.0), W4: bench(conv1=3.0, fc=2.0)}, OURS)
    assert found["conv1"] == pytest.approx({BASE: 6e-6, W4: 4e-6})
    made = losses({"conv1": {W4: 0.1}, "fc": {W4: 0.1}}, {"conv1": 432})
    best = allocate(Problem.of(made, times=found), Limit("latency", 8e-6))
    assert best.of == {"conv1": W4, "fc": BASE}
    assert best.costs.seconds == pytest.approx(7e-6)


def test_times_without_a_layer_or_of_another_batch_are_named() -> None:
    with pytest.raises(TuneError) as caught:
        times_of({W4: bench(conv1=3.0)}, OURS)
    assert str(caught.value) == (
        "times at W4A4: have no row for fc. Bench a checkpoint of this model with that op "
        "quantized."
    )
    with pytest.raises(TuneError) as caught:
        times_of({W4: bench(8, conv1=3.0)}, OURS)
    assert str(caught.value) == (
        "times at W4A4: are not of batch 1 but of 8. Run qviz bench --batch 1."
    )


def test_times_are_those_of_a_device_that_timed_every_width(tmp_path: Path) -> None:
    eight, four = tmp_path / "eight", tmp_path / "four"
    for folder, micros in ((eight, 5.0), (four, 3.0)):
        folder.mkdir()
        write_benches(folder, [bench(conv1=micros, fc=2.0)])
    write_benches(eight, [replace(bench(conv1=0.1, fc=0.1), device="a GPU")])
    found = times_in({BASE: eight, W4: four}, OURS, (BASE, W4))
    assert found["conv1"] == pytest.approx({BASE: 6e-6, W4: 4e-6})
    (four / "bench.json").unlink()
    with pytest.raises(TuneError) as caught:
        times_in({BASE: eight, W4: four}, OURS, (BASE, W4))
    assert str(caught.value) == f"times in {four}: there are none. Run qviz bench {four}."
    with pytest.raises(TuneError) as caught:
        times_in({BASE: eight, W4: tmp_path / "no"}, OURS, (BASE, W4))
    assert str(caught.value) == f"times at W4A4: {tmp_path / 'no'} is no folder. Name a checkpoint."
    write_benches(four, [replace(bench(conv1=3.0, fc=2.0), device="another CPU")])
    with pytest.raises(TuneError) as caught:
        times_in({BASE: eight, W4: four}, OURS, (BASE, W4))
    assert str(caught.value) == (
        "times: are of different devices: W8A8 on CPU and a GPU, W4A4 on another CPU. Time all on "
        "the same one."
    )
