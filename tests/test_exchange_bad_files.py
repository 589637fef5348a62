"""Files that cannot be read: one line says which, what is wrong with it and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from exchange_kit import read
from networks import recipe

from qviz.errors import FormatError

AGAIN = "Write it again with the tool it came from."
OTHER = "Import it into the model that it was made for."
TENSORS = "x, relu:relu, relu:relu.1 and 2 more"
OPS = "conv1, conv2, conv3 and 2 more"


def encodings(**changed: object) -> str:
    entry = {
        "name": "x", "dtype": "INT", "enc_type": "PER_TENSOR", "is_sym": True, "bw": 8,
        "scale": [0.1], "offset": [-128],
    }  # fmt: skip
    content = {"version": "1.0.0", "activation_encodings": [entry | changed]}
    return json.dumps(content | {"param_encodings": []})


def record(fields: str, key: str = "conv1") -> str:
    return f'record {{ key: "{key}" value {{ {fields} }} }}'


TRT = "TRT-8601-EntropyCalibration2\n"
AIMET = {
    "half a file": (
        '{"version": "1.0.0", "act',
        "is not JSON: Unterminated string starting at (line 1)",
    ),
    "a list": ("[]", "is not an AIMET file: it has no activation_encodings or param_encodings"),
    "a later version": (
        '{"version": "3.0", "activation_encodings": []}',
        "has encodings of version '3.0'; those that are read are 0.6.1, 1.0.0, 2.0.0, 2.1.0",
    ),
    "a scale that is NaN": (encodings(scale=[float("nan")]), "scale of x is nan, not a number"),
    "a scale below 0": (encodings(scale=[-0.1]), "scale of x is -0.1, not above 0"),
    "activations per channel": (
        encodings(scale=[0.1, 0.2], offset=[-128, -128]),
        "activation x has one scale per channel, which no recipe can say",
    ),
    "a scale missing": (encodings(scale=[]), "x has 0 scales and 1 offsets"),
    "a grid per block": (
        encodings(enc_type="PER_BLOCK"),
        "x has a PER_BLOCK grid; per tensor and per channel are read",
    ),
    "a width in text": (encodings(bw="8"), "bw of x is '8', not a number"),
    "half an offset": (encodings(offset=[0.5]), "offset of x is 0.5, not a whole number"),
    "no name": (encodings(name=3), "activation_encodings[0] is not an object with a name"),
    "no grid": (
        '{"version": "0.6.1", "activation_encodings": {"x": []}}',
        "activation_encodings: the encoding of x is not a list of objects",
    ),
    "skips in text": (
        '{"version": "1.0.0", "param_encodings": [], "excluded_layers": "fc"}',
        "excluded_layers is not a list of names",
    ),
    "a later version's grid per block": (
        '{"version": "2.0.0", "encodings": '
        '[{"name": "x", "output_dtype": "int8", "y_scale": [[1]]}]}',
        "x has a grid per block; per tensor and per channel are read",
    ),
}  # fmt: skip
AMCT = {
    "half a file": ('record { key: "conv1" value { scale_d: 0.1', "ends in the middle of a record"),
    "a scale that is NaN": (record("scale_d: nan"), "scale_d of conv1 is nan, not a number"),
    "a scale below 0": (record("scale_d: -0.1"), "scale_d of conv1 is -0.1, not above 0"),
    "an offset out of range": (
        record("scale_d: 0.1 offset_d: 300"),
        "offset_d of conv1 is 300, not from -128 to 127",
    ),
    "a weight with an offset": (
        record("scale_d: 0.1 scale_w: 0.1 offset_w: 3"),
        "conv1 has an offset_w other than 0",
    ),
    "4 bits": (record('scale_d: 1 dst_type: "INT4"'), "conv1 has dst_type INT4; INT8 is read"),
    "no key": ("record { value { scale_d: 0.1 } }", "a record has no key"),
    "a text that does not end": ('record { key: "conv1 }', "cannot be understood in line 1"),
    "a bracket alone": (": 3", ": is not the name of a field"),
    "a later config": (
        '{"version": 2, "batch_num": 1, "conv1": {"quant_enable": true}}',
        "is a config of version 2; 1 is read",
    ),
    "a config of 4 bits": (
        '{"version": 1, "batch_num": 1, "conv1": {"quant_enable": true, '
        '"weight_quant_params": {"num_bits": 4}}}',
        "conv1 has 4 bits; 8 are read",
    ),
    "no config": (
        '{"version": 1}',
        "is not an AMCT config: no layer in it has quant_enable",
    ),
}
CACHE = {
    "no header": (
        "x: 3d0447ff\n",
        "has no header like TRT-8601-EntropyCalibration2 in its first line",
    ),
    "nothing": ("", "has no header like TRT-8601-EntropyCalibration2 in its first line"),
    "half a line": (
        f"{TRT}x: 3d0447ff\nrelu:relu: 3d",
        "line 3 is not a tensor and a hexadecimal scale",
    ),
    "a scale that is NaN": (f"{TRT}x: 7fc00000\n", "scale of x is nan, not a number"),
    "a scale below 0": (f"{TRT}x: bf800000\n", "scale of x is -1, not above 0"),
}
RANGES = {
    "half a file": ('{"x": [0, 1', "is not JSON: Expecting ',' delimiter (line 1)"),
    "a list": ("[1]", "is not an object of ranges by tensor"),
    "ends turned round": ('{"x": [1, 0]}', "the range of x is 1 to 0"),
    "an end that is NaN": ('{"x": [NaN, 0]}', "an end of the range of x is nan, not a number"),
    "no range": ('{"x": 3}', "x has no minimum and maximum"),
    "a later version": ('{"format": "qviz-ranges", "version": 2}', "has version 2; 1 is read"),
    "no tensors": (
        '{"format": "qviz-ranges", "version": 1, "tensors": 3}',
        "is not an object of ranges by tensor",
    ),
    "skips in text": (
        '{"format": "qviz-ranges", "version": 1, "tensors": {}, "float": "fc"}',
        "float is not a list of names",
    ),
}
CASES = {
    f"{format}: {what}": (format, *case)
    for format, cases in (
        ("aimet", AIMET), ("amct", AMCT), ("tensorrt-cache", CACHE), ("ranges", RANGES)
    )
    for what, case in cases.items()
}  # fmt: skip


def refusal(path: Path, format: str | None) -> str:
    with pytest.raises(FormatError) as caught:
        read("residual", path, recipe("residual"), format)
    return str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_file_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    format, text, reason = CASES[case]
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert refusal(path, format) == f"{path}: {reason}. {AGAIN}"


@pytest.mark.parametrize(
    ("format", "text", "names"),
    [
        ("aimet", encodings(name="other"), TENSORS),
        ("amct", record("scale_d: 0.1 scale_w: 0.1", key="other"), OPS),
        ("tensorrt-cache", f"{TRT}other: 3d0447ff\n", TENSORS),
        ("ranges", '{"other": [0, 1]}', TENSORS),
    ],
)
def test_a_file_of_another_model_is_refused_with_names_of_both(
    format: str, text: str, names: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    reason = f"names nothing that Residual has: its first names are other; the model's are {names}"
    assert refusal(path, format) == f"{path}: {reason}. {OTHER}"


def test_what_fits_no_format_is_refused_with_the_list_of_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("hello", encoding="utf-8")
    said = refusal(path, None)
    assert said.startswith(
        f"{path}: is none of the formats that can be read: recipe, aimet, amct, "
    )
    assert said.endswith(". Name the format with --format (format=), or give another file.")


def test_half_a_json_file_is_said_to_be_that(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"version": ', encoding="utf-8")
    assert refusal(path, None) == f"{path}: is not JSON: Expecting value (line 1). {AGAIN}"


def test_bytes_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe\x00")
    assert refusal(path, "aimet") == f"{path}: is not text. {AGAIN}"


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    said = f"{tmp_path}: cannot be read (is a directory). Name a file."
    assert refusal(tmp_path, "ranges") == said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none"
    assert refusal(path, None) == f"{path}: there is no such file. Name a file that exists."


def test_a_format_that_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("{}", encoding="utf-8")
    said = refusal(path, "coco")
    assert said.startswith("format 'coco': cannot be read. Choose among recipe, aimet, amct, ")


def test_a_recipe_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(recipe("tokens").to_json(), encoding="utf-8")
    assert refusal(path, None) == (
        "embed: Residual has no such tensor. List the names with qviz info."
    )
