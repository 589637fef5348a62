"""Models, weights and factories from outside: what loads, what is refused and how it is said."""

from __future__ import annotations

import collections
import json
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from qviz.errors import InputError, MetricError, ModelError, QvizError
from qviz.loading import load_metric, load_model
from qviz.loading_pt2 import is_arithmetic
from qviz.samples import sample, samples

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

def other():
    return nn.Linear(3, 2)

class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

net = Net()

def needs(depth, width, name="x"): ...

def fails():
    raise ValueError("the weights\\n  are gone.")

def stops():
    raise SystemExit("pip install something")

def nothing(): ...

def scripted():
    return torch.jit.script(nn.Linear(3, 2))

def lazy():
    return nn.LazyLinear(2)

def meta():
    with torch.device("meta"):
        return nn.Linear(3, 2)

def exported():
    return torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),))

def hits(outputs, targets):
    return outputs == targets

number = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    path = tmp_path / "models.py"
    path.write_text(CODE, encoding="utf-8")
    return str(path)


@pytest.fixture
def state(code: str) -> dict[str, Tensor]:
    model = load_model(f"{code}:build").model
    assert isinstance(model, nn.Module)
    return {k: v + 1 for k, v in model.state_dict().items()}


def message(
    spec: str | Path | nn.Module | ExportedProgram, weights: str | Path | None = None
) -> str:
    with pytest.raises(QvizError) as caught:
        load_model(spec, weights)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def weights_of(model: nn.Module | ExportedProgram) -> dict[str, Tensor]:
    return dict(model.state_dict() if isinstance(model, nn.Module) else model.state_dict)


# ---- factories ----


def test_a_factory_in_a_file_builds_the_model(code: str) -> None:
    loaded = load_model(f"{code}:build")
    assert isinstance(loaded.model, nn.Sequential)
    assert loaded.name == "build"
    assert loaded.spec == f"{code}:build"
    assert loaded.digest == load_model(f"{code}:build").digest


@pytest.mark.parametrize("name", ["Net", "net", "exported"])
def test_a_class_an_instance_or_an_exported_program_will_do(code: str, name: str) -> None:
    assert set(weights_of(load_model(f"{code}:{name}").model)) == {"weight", "bias"}


def test_a_factory_in_a_module_of_the_working_folder(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mine_for_this_test"
    package.mkdir()
    (package / "__init__.py").touch()
    Path(code).rename(package / "nets.py")
    monkeypatch.chdir(tmp_path)
    assert load_model("mine_for_this_test.nets:build").name == "build"


def test_the_import_path_is_as_before_even_if_the_code_fails(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    (tmp_path / "helper_of_broken.py").write_text("", encoding="utf-8")
    path.write_text("import helper_of_broken\n1 / 0", encoding="utf-8")
    before, modules = list(sys.path), {n for n in sys.modules if n.startswith("qviz_user_")}
    assert message(f"{path}:build") == (
        f"{path}:build: importing it raised ZeroDivisionError: division by zero "
        "(broken.py, line 2). Correct the code, or what it needs."
    )
    assert sys.path == before
    assert {n for n in sys.modules if n.startswith("qviz_user_")} == modules


def test_what_the_users_code_adds_to_the_import_path_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "adds.py"
    path.write_text(
        f"import sys\nfrom torch import nn\nsys.path.insert(0, {str(tmp_path)!r})\n"
        "def build():\n    return nn.Linear(1, 1)\n",
        encoding="utf-8",
    )
    load_model(f"{path}:build")
    assert sys.path.count(str(tmp_path)) == 1


def test_a_factory_may_import_its_neighbours_when_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "neighbour_for_this_test.py").write_text("width = 3", encoding="utf-8")
    path = tmp_path / "late.py"
    path.write_text(
        "def build():\n    import neighbour_for_this_test as n\n"
        "    from torch import nn\n    return nn.Linear(n.width, 1)\n",
        encoding="utf-8",
    )
    assert weights_of(load_model(f"{path}:build").model)["weight"].shape == (1, 3)


def test_a_file_is_imported_once_and_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "counted.py"
    path.write_text(
        "from torch import nn\nnets = []\n"
        "def build():\n    nets.append(1)\n    return nn.Linear(len(nets), 1)\n",
        encoding="utf-8",
    )
    shapes = [weights_of(load_model(f"{path}:build").model)["weight"].shape[1] for _ in range(2)]
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    shapes.append(weights_of(load_model(f"{path}:build").model)["weight"].shape[1])
    assert shapes == [1, 2, 1]


NOT_A_MODEL = "Return the model from the factory."
REFUSED_FACTORIES = {
    "absent": (
        "models.py has no absent; it has build, other, Net, net, needs, fails, stops, nothing. "
        "Name one that is there."
    ),
    "needs": (
        "it is called without arguments, but needs depth, width. "
        "Give them defaults, or name a function that needs none."
    ),
    "fails": (
        "calling it raised ValueError: the weights are gone (models.py, line 21). "
        "Correct the code, or what it needs."
    ),
    "stops": (
        "calling it raised SystemExit: pip install something (models.py, line 24). "
        "Correct the code, or what it needs."
    ),
    "nothing": f"it returned a NoneType, not an nn.Module. {NOT_A_MODEL}",
    "number": f"it returned a int, not an nn.Module. {NOT_A_MODEL}",
    "lazy": (
        "bias has no values yet. "
        "Load weights, or run a lazy layer once, before handing over the model."
    ),
    "meta": (
        "bias has no values yet. "
        "Load weights, or run a lazy layer once, before handing over the model."
    ),
}


@pytest.mark.parametrize(("name", "text"), REFUSED_FACTORIES.items())
def test_a_factory_that_makes_no_model_is_refused(code: str, name: str, text: str) -> None:
    assert message(f"{code}:{name}") == f"{code}:{name}: {text}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(code: str) -> None:
    assert message(f"{code}:scripted") == (
        f"{code}:scripted: it returned a RecursiveScriptModule, not an nn.Module. {NOT_A_MODEL}"
    )
    assert message(torch.jit.script(nn.Linear(1, 1))) == (
        "RecursiveScriptModule from Python: it is TorchScript, whose operations cannot be "
        "observed. Give the nn.Module it was made from."
    )


WHAT = "Give a .pt2 file, file.py:factory, package.module:factory or sample:NAME."


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert message(f"{gone}.py:build") == (
        f"{gone}.py:build: there is no file {gone}.py. Check the path."
    )
    assert message(f"{gone}.pt2") == f"{gone}.pt2: there is no such file. Check the path."
    assert message(f"{gone}.onnx") == f"{gone}.onnx: there is no such file or folder. {WHAT}"
    assert message("no_such_package.nets:build") == (
        "no_such_package.nets:build: there is no module no_such_package.nets. "
        "Check its name, or give the file: path/to/file.py:name."
    )
    names = ", ".join(s.name for s in samples())
    assert message("sample:gone") == (
        f"sample:gone: there is no such sample model. Choose one of {names}."
    )


def test_a_module_that_lacks_a_dependency_says_which(tmp_path: Path) -> None:
    path = tmp_path / "needy.py"
    path.write_text("import no_such_dependency", encoding="utf-8")
    assert message(f"{path}:build") == (
        f"{path}:build: importing it raised ModuleNotFoundError: No module named "
        "'no_such_dependency' (needy.py, line 1). Correct the code, or what it needs."
    )


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "typo.py"
    path.write_text("x = 1\ndef build(:\n", encoding="utf-8")
    assert message(f"{path}:build") == (
        f"{path}:build: importing it raised SyntaxError: invalid syntax (typo.py, line 2). "
        "Correct the code, or what it needs."
    )


def test_what_is_no_model_format_is_refused(tmp_path: Path) -> None:
    onnx = tmp_path / "net.onnx"
    onnx.write_bytes(b"x")
    assert message(onnx) == f"{onnx}: .onnx is not a format for models. {WHAT}"
    assert message(tmp_path) == f"{tmp_path}: it is a folder. {WHAT}"
    python = tmp_path / "net.py"
    python.touch()
    assert message(python) == (
        f"{python}: which function builds the model is not said. Name it: {python}:factory."
    )
    weights = tmp_path / "net.safetensors"
    save_file({"w": torch.ones(1)}, weights)
    assert message(weights) == (
        f"{weights}: it holds weights, and the model's code is needed as well. "
        "Give file.py:factory as the model and this file as its weights."
    )
    assert message(3) == f"int from Python: it is not a model. Give an nn.Module. {WHAT}"  # type: ignore[arg-type]


# ---- a model from Python, and digests ----


def test_a_model_from_python_is_taken_as_it_is() -> None:
    model = nn.Linear(2, 2)
    loaded = load_model(model)
    assert loaded.model is model
    assert loaded.name == "Linear"
    assert loaded.spec == "Linear from Python"
    assert "Linear(" not in repr(loaded)


def test_weights_for_a_model_from_python_do_not_change_it(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, path)
    loaded = load_model(model, path)
    assert torch.equal(model.weight, before)
    assert torch.equal(weights_of(loaded.model)["weight"], torch.ones(2, 2))


def test_the_digest_is_of_names_shapes_types_and_values() -> None:
    def digest(tensors: dict[str, Tensor]) -> str:
        model = nn.Module()
        for name, value in tensors.items():
            model.register_buffer(name, value)
        return load_model(model).digest

    x = torch.arange(4.0)
    one = digest({"a": x, "b": x})
    assert one == digest({"b": x, "a": x.clone()})
    others = [
        {"a": x, "c": x},
        {"a": x, "b": x + 1},
        {"a": x, "b": x.double()},
        {"a": x, "b": x.reshape(2, 2)},
    ]
    assert len({one, *(digest(o) for o in others)}) == 5
    assert digest({"a": x.bfloat16()}) != digest({"a": x.half()})


def test_a_quantized_model_is_refused() -> None:
    model = nn.Module()
    model.register_buffer("w", torch.ones(2).to_sparse())
    assert message(model) == (
        "Module from Python: w is not a dense float or integer tensor. Give the float model."
    )


# ---- weight files ----


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt"])
def test_every_weight_format_gives_the_same_model(
    tmp_path: Path, code: str, state: dict[str, Tensor], suffix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded = load_model(f"{code}:build", path)
    assert loaded.spec == f"{code}:build + {path}"
    for name, value in weights_of(loaded.model).items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize(
    "wrapper", ["plain", "state_dict", "model_state_dict", "module.", "_orig_mod.", "legacy"]
)
def test_wrappers_and_prefixes_are_taken_off(
    tmp_path: Path, code: str, state: dict[str, Tensor], wrapper: str
) -> None:
    path = tmp_path / "w.pt"
    saved: object = collections.OrderedDict(state)
    if wrapper.endswith("."):
        saved = {wrapper + k: v for k, v in state.items()}
    elif "state_dict" in wrapper:
        saved = {"epoch": 3, wrapper: state}
    torch.save(saved, path, _use_new_zipfile_serialization=wrapper != "legacy")
    assert torch.equal(
        weights_of(load_model(f"{code}:build", path).model)["0.bias"], state["0.bias"]
    )


def test_a_checkpoint_without_batch_counters_will_do(
    tmp_path: Path, code: str, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, path)
    load_model(f"{code}:build", path)


def test_weights_of_another_model_are_refused(
    tmp_path: Path, code: str, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({f"net.{k}": v for k, v in state.items()}, path)
    assert message(f"{code}:build", path) == (
        f"{path}: its weights are not those of Sequential: 6 missing (0.weight, 0.bias, 1.weight, "
        "...), 7 unexpected (net.0.bias, net.0.weight, net.1.bias, ...). "
        "Give the weights of this architecture, or the factory of that one."
    )
    save_file({k: v for k, v in state.items() if k != "0.bias"}, path)
    assert message(f"{code}:build", path) == (
        f"{path}: its weights are not those of Sequential: 1 missing (0.bias). "
        "Give the weights of this architecture, or the factory of that one."
    )
    save_file({**state, "0.weight": torch.ones(4, 5)}, path)
    assert message(f"{code}:build", path) == (
        f"{path}: 0.weight has shape (4, 5) and Sequential needs (4, 3). "
        "Give the weights of this architecture, or build the model with that size."
    )


SAVE = "Save only the weights, torch.save(model.state_dict(), path), or use safetensors."
AGAIN = "Save, copy or download it again."


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {os.environ['QVIZ_TEST_MARK']}",)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "executed"
    monkeypatch.setenv("QVIZ_TEST_MARK", str(path))
    return path


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, code: str, mark: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": Evil()}, path)
    assert message(f"{code}:build", path) == (
        f"{path}: loading it would run code of its own (posix.system). {SAVE}"
    )
    torch.save({"w": Evil()}, path, _use_new_zipfile_serialization=False)
    assert message(f"{code}:build", path) == (
        f"{path}: it is damaged, or loading it would run code of its own. {SAVE}"
    )
    assert not mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path, code: str) -> None:
    path = tmp_path / "w.pt"
    torch.save(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), path)
    assert message(f"{code}:build", path) == (
        f"{path}: loading it would run code of its own (torch.nn.modules.activation.ReLU, "
        f"torch.nn.modules.container.Sequential, torch.nn.modules.linear.Linear). {SAVE}"
    )


def test_other_archives_are_refused_by_kind(tmp_path: Path, code: str) -> None:
    path = tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(1, 1)).save(str(path))
    assert message(f"{code}:build", path) == (
        f"{path}: it is a TorchScript archive, whose operations cannot be observed. "
        "Save the nn.Module's state_dict, or torch.export.save a .pt2."
    )
    export(path.with_suffix(".pt2")).rename(path)
    assert message(f"{code}:build", path) == (
        f"{path}: it is an exported program, not a checkpoint. "
        "Rename it to .pt2 and give it as the model."
    )


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2"])
@pytest.mark.parametrize("damage", ["empty", "half", "noise", "middle"])
def test_damaged_files_are_refused(tmp_path: Path, code: str, suffix: str, damage: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt2":
        export(path)
    elif suffix == ".pt":
        torch.save({"w": torch.rand(1000)}, path)
    else:
        save_file({"w": torch.rand(1000)}, path)
    content = path.read_bytes()
    middle = content[:8] + b"\xff" * 200 + content[208:]
    path.write_bytes(
        {"empty": b"", "half": content[: len(content) // 2], "noise": b"noise" * 50}.get(
            damage, middle
        )
    )
    text = message(path) if suffix == ".pt2" else message(f"{code}:build", path)
    assert text.startswith(f"{path}: ")
    if damage == "empty" and suffix != ".pt2":
        assert text == f"{path}: the file is empty. Save or download it again."
    elif suffix == ".safetensors" or (suffix == ".pt" and damage == "half"):
        assert text == f"{path}: the file is damaged or cut short. {AGAIN}"


def test_files_that_hold_no_weights_are_refused(tmp_path: Path, code: str) -> None:
    path = tmp_path / "w.pt"
    for saved, reason in (
        ([1, 2], "it holds a list, not named weights"),
        ({}, "it holds nothing, not named weights"),
        ({"epoch": 3, "w": torch.ones(1)}, "epoch in it is a int, not a tensor"),
    ):
        torch.save(saved, path)
        assert message(f"{code}:build", path) == f"{path}: {reason}. {SAVE}"
    gone = tmp_path / "gone.pt"
    assert message(f"{code}:build", gone) == f"{gone}: there is no such file. Check the path."
    other = tmp_path / "w.h5"
    other.write_bytes(b"x")
    assert message(f"{code}:build", other) == (
        f"{other}: .h5 is not a format for tensors. "
        "Give a .safetensors file or a checkpoint (.pt, .pth, .th, .bin, .ckpt)."
    )


def test_a_small_file_with_a_giant_tensor_is_refused(tmp_path: Path, code: str) -> None:
    path = tmp_path / "w.pt"
    torch.save({"0.weight": torch.ones(1).expand(10**10)}, path)
    assert path.stat().st_size < 5000
    assert message(f"{code}:build", path) == (
        f"{path}: 0.weight claims 40000000000 bytes and is stored in 4. Save contiguous tensors."
    )


def test_a_compressed_archive_is_refused(tmp_path: Path, code: str) -> None:
    plain, path = tmp_path / "plain.pt", tmp_path / "w.pt"
    torch.save({"w": torch.zeros(1000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert message(f"{code}:build", path) == (
        f"{path}: its contents are compressed. Save it with torch.save again."
    )


# ---- exported programs ----


def export(path: Path, model: nn.Module | None = None) -> Path:
    model = model or nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.BatchNorm1d(4)).eval()
    program = torch.export.export(
        model, (torch.ones(2, 3),), dynamic_shapes=({0: Dim("batch")},), strict=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)
    return path


def rewritten(path: Path, old: str, new: str) -> Path:
    """The archive with a text in its model replaced."""
    out = path.with_name("rewritten.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("models/model.json"):
                assert old.encode() in content
                content = content.replace(old.encode(), json.dumps(new)[1:-1].encode())
            target.writestr(name, content)
    return out


def test_an_exported_program_loads_without_its_code(tmp_path: Path) -> None:
    path = export(tmp_path / "net.pt2")
    loaded = load_model(path)
    assert isinstance(loaded.model, ExportedProgram)
    assert loaded.name == "net.pt2"
    assert loaded.digest == load_model(path).digest
    assert loaded.model.module()(torch.ones(5, 3)).shape == (5, 4)


def test_an_exported_program_takes_no_weights(tmp_path: Path) -> None:
    path = export(tmp_path / "net.pt2")
    assert message(path, "w.safetensors") == (
        f"{path}: an exported program has its weights in it. Leave out the weight file."
    )


def test_an_exported_program_that_calls_python_is_refused(tmp_path: Path) -> None:
    path = rewritten(
        export(tmp_path / "net.pt2"), "torch.ops.aten.linear.default", "torch.os.system"
    )
    assert message(path) == (
        f"{path}: it calls torch.os.system, which is not a tensor operator. "
        "Export a model that consists of tensor operators only."
    )


def test_an_exported_program_with_code_for_a_shape_is_refused(tmp_path: Path, mark: Path) -> None:
    symbol = next(
        text
        for text in export(tmp_path / "net.pt2").read_bytes().decode("latin1").split('"')
        if text.startswith("Symbol('s")
    )
    attack = f"__import__('os').system('touch {mark}')"
    path = rewritten(tmp_path / "net.pt2", symbol, attack)
    assert message(path) == (
        f"{path}: the shape expression {attack[:80]} is not arithmetic. "
        "Export the model again with this version of torch: torch.export.save(program, path)."
    )
    assert not mark.exists()


def test_an_exported_program_with_a_pickle_is_refused(tmp_path: Path, mark: Path) -> None:
    source, path = export(tmp_path / "net.pt2"), tmp_path / "evil.pt2"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            is_inputs = name.endswith("sample_inputs/model.pt")
            new.writestr(name, pickle.dumps(Evil()) if is_inputs else old.read(name))
    assert message(path) == (
        f"{path}: data/sample_inputs/model.pt in it is damaged, or would run code of its own. "
        "Export a model whose weights and example inputs are plain tensors."
    )
    assert not mark.exists()


def test_an_archive_without_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt2"
    torch.save({"w": torch.ones(1)}, path)
    assert message(path) == (
        f"{path}: there is no exported program in it. "
        "Export the model again with this version of torch: torch.export.save(program, path)."
    )


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Mul(Integer(2), Symbol('s77', integer=True))", True),
        ("2*s77 + FloorDiv(s0 - 1, 4)", True),
        ("Eq(s0, 3) & (s1 < 4)", True),
        ("__import__('os').system('id')", False),
        ("exec(chr(95))", False),
        ("s0.__class__", False),
        ("().__class__", False),
        ("Symbol('x y()')", False),
        ("Lambda('x', 1)", False),
        ("[x for x in s0]", False),
        ("Symbol(name='x')('y')", False),
        ("s0[0]", False),
        ("f'{s0}'", False),
        ("2 *", False),
        ("(" * 500, False),
    ],
)
def test_shape_expressions_may_be_arithmetic_only(expression: str, allowed: bool) -> None:
    assert is_arithmetic(expression) is allowed


# ---- metrics and sample models ----


def test_a_metric_is_a_name_or_a_function_in_a_file(code: str) -> None:
    assert load_metric("top1").name == "top1"
    assert load_metric(f"{code}:hits").name == "hits"
    for spec, text in (
        ("top2", "top2: is not a metric"),
        (f"{code}:number", "a int is not a metric. Name a function."),
        (f"{code}:gone", "models.py has no gone;"),
    ):
        with pytest.raises(MetricError) as caught:
            load_metric(spec)
        assert text in str(caught.value)


@pytest.mark.parametrize("name", [s.name for s in samples()])
def test_every_sample_model_loads(name: str) -> None:
    loaded = load_model(f"sample:{name}")
    assert loaded.name == name
    assert isinstance(loaded.model, nn.Module)


def test_samples_of_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVIZ_SAMPLES", str(tmp_path))
    assert samples() == ()
    with pytest.raises(InputError) as caught:
        sample("x")
    assert str(caught.value) == (
        f"sample:x: there is no such sample model. Put some into {tmp_path}."
    )
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "sample.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        samples()
    assert str(caught.value) == (
        f"{tmp_path}/x/sample.json: it does not describe a sample model (KeyError: 'name'). "
        "Restore it from the repository, or install qviz again."
    )
    monkeypatch.setenv("QVIZ_SAMPLES", str(tmp_path / "gone"))
    with pytest.raises(InputError) as caught:
        samples()
    assert str(caught.value) == (
        f"QVIZ_SAMPLES: {tmp_path}/gone is not a folder. Correct or unset the variable."
    )


def test_a_models_own_error_comes_through(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from qviz.errors import ModelError\n"
        "def build():\n    raise ModelError('net', 'no licence', 'Buy one')\n",
        encoding="utf-8",
    )
    with pytest.raises(ModelError, match=r"^net: no licence\. Buy one\.$"):
        load_model(f"{path}:build")
