"""The landing page: samples, a model by path or upload, earlier runs, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
import torch
from cli_kit import result
from networks import made
from streamlit.testing.v1 import AppTest
from torch import nn

from qviz.errors import InputError
from qviz.jobs import Job, Worker
from qviz.metrics import METRICS
from qviz.opening import _OPENING
from qviz.profiles import PROFILES
from qviz.samples import samples
from qviz.ui import launch, models, opening, visit, warm
from qviz.ui.launch import MAIN, Policy, Start
from qviz.ui.opening import Typed
from qviz.ui.opening_recent import ago, recent_runs
from qviz.ui.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where runs of this test are kept; the folder of uploads goes with the test."""
    monkeypatch.setenv("QVIZ_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(launch, "_start", Start())
    monkeypatch.setattr(warm, "up", lambda: None)
    yield tmp_path / "runs"
    visit.workspaces().models.close(30)  # an open model keeps to the folder of its test
    opening._folder().cleanup()
    opening._folder.clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its data, and some that do not fit."""
    folder = tmp_path_factory.mktemp("files")
    model = made(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    batch = torch.export.Dim("batch", min=1)
    example = (torch.zeros(4, 3, 8, 8),)
    with _OPENING:  # another test's server may be tracing a model of its own
        program = torch.export.export(model, example, dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(160, 3, 8, 8)).astype("f4")
    np.savez(folder / "few.npz", inputs=images[:32])
    np.savez(folder / "more.npz", inputs=images[32:], labels=rng.integers(0, 5, 128))
    np.savez(folder / "wrong.npz", inputs=images[:, :1])
    torch.save({"w": _Evil()}, folder / "evil.pt")
    (folder / "notes.txt").write_text("not a model")
    return folder


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def page() -> AppTest:
    return AppTest.from_file(str(MAIN), default_timeout=120).run()


def widget(at: AppTest, key: str) -> Any:  # noqa: ANN401 - of whatever kind
    return at.get_by_key(key)


def workspace(at: AppTest) -> Workspace:
    found = visit.workspaces().find(at.session_state["w"])
    assert found is not None
    return found


def press_open(at: AppTest, **typed: object) -> AppTest:
    """Fill the form, press Open, and run until the model is open or it is said why not."""
    for name, value in typed.items():
        widget(at, f"start_{name}").set_value(str(value))
    widget(at, "start_open").click().run()
    deadline = time.monotonic() + 100
    while not at.error and "Ops" not in [m.label for m in at.metric]:
        assert time.monotonic() < deadline, "neither open nor refused"
        at.run()
    assert not at.exception
    return at


def test_the_page_needs_neither_torch_nor_numpy() -> None:
    parts = "opening_card, opening_form, opening_recent, sidebar, start, visit, warm"
    code = (
        f"import sys; from qviz.ui import {parts}; "
        "print(*sorted({'torch', 'numba', 'pandas', 'numpy'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (run.returncode, run.stdout.split()) == (0, []), run.stderr


def test_one_button_is_the_obvious_one() -> None:
    at = page()
    primary = [b.label for b in at.button if b.proto.type == "primary"]
    assert primary == [f"Try the sample {samples()[0].title}"]


def test_a_click_on_a_sample_leads_to_its_histogram() -> None:
    at = page()
    widget(at, "start_sample_resnet").click().run()
    deadline = time.monotonic() + 100
    while not (at.title and at.title[0].value == "Ranges" and at.get("bidi_component")):
        assert time.monotonic() < deadline
        assert not at.exception
        at.run()
    assert at.query_params["w"]


def test_a_model_opens_by_its_path_and_stands_on_a_card(files: Path) -> None:
    at = press_open(
        page(),
        model=files / "net.pt2",
        calibration=files / "few.npz",
        evaluation=files / "more.npz",
    )
    cards = {m.label: m.value for m in at.metric}
    # 4 * 27 + 4 and 5 * 144 + 5 float32 parameters; int8 with 9 float32 scales and 9 biases
    assert (cards["Ops"], cards["Can be int8"], cards["Parameters"]) == ("4", "2", "837")
    assert (cards["Float size"], cards["Int8 size"]) == ("3.35 kB", "900 B")
    assert [m.delta for m in at.metric if m.label == "Int8 size"] == ["estimated"]


def test_the_float_accuracy_is_measured_while_the_card_stands_there(files: Path) -> None:
    at = press_open(
        page(),
        model=files / "net.pt2",
        calibration=files / "few.npz",
        evaluation=files / "more.npz",
    )
    deadline = time.monotonic() + 60
    while at.metric[-1].delta != "measured, n = 128":
        assert time.monotonic() < deadline
        at.run()
    assert at.metric[-1].label == "Float top1"
    assert at.metric[-1].value.endswith(" %")


@dataclass(frozen=True)
class Bad:
    """What is typed, files in braces, and how the refusal goes on after the first name."""

    typed: dict[str, str]
    said: str


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(
            Bad({}, "Model: nothing is named. Type the path of a .pt2 file or a run folder."),
            id="nothing",
        ),
        pytest.param(
            Bad(
                {"model": "/no/net.pt2", "calibration": "{}/few.npz"},
                "/no/net.pt2: there is no such file or folder (model). "
                "Check the path; it is on the server.",
            ),
            id="a missing file",
        ),
        pytest.param(
            Bad(
                {"model": "{}/net.pt2"},
                "Calibration data: none are named, and ranges come from them. "
                "Type the path of a .npz file or of a folder of images.",
            ),
            id="no calibration data",
        ),
        pytest.param(
            Bad(
                {"model": "{}/notes.txt", "calibration": "{}/few.npz"},
                "{}/notes.txt: .txt is not a format for models. "
                "Give a .pt2 file, file.py:factory, package.module:factory or sample:NAME.",
            ),
            id="another type",
        ),
        pytest.param(
            Bad(
                {"model": "{}/evil.pt", "calibration": "{}/few.npz"},
                "{}/evil.pt: loading it would run code of its own (posix.system). "
                "Save only the weights, torch.save(model.state_dict(), path), or use safetensors.",
            ),
            id="a malicious pickle as the model",
        ),
        pytest.param(
            Bad(
                {"model": "{}/net.pt2", "calibration": "{}/evil.pt"},
                "{}/evil.pt: loading it would run code of its own (posix.system). "
                "Save only the weights, torch.save(model.state_dict(), path), or use safetensors.",
            ),
            id="a malicious pickle as data",
        ),
        pytest.param(
            Bad(
                {"model": "{}/net.pt2", "calibration": "{}/wrong.npz"},
                "input input: samples are float32 (1, 8, 8), the model takes float32 (3, 8, 8). "
                "Give data as the model was trained on, preprocessing included.",
            ),
            id="data of another shape",
        ),
        pytest.param(
            Bad(
                {"model": "net.py:make"},
                "net.py:make: it is Python code, and opening it would run it. Name it on the "
                "command line, qviz app net.py:make, or start the server with qviz app "
                "--allow-code.",
            ),
            id="a factory",
        ),
        pytest.param(
            Bad(
                {"model": "{}"}, "{}: there is no run in it. Name the folder that a run was given."
            ),
            id="a folder without a run",
        ),
    ],
)
def test_what_cannot_be_opened_is_said_and_what_was_typed_stays(bad: Bad, files: Path) -> None:
    typed = {name: text.replace("{}", str(files)) for name, text in bad.typed.items()}
    typed.setdefault("calibration", "")
    if typed.get("model") == "net.py:make":
        typed["calibration"] = str(files / "few.npz")
    at = press_open(page(), **typed)
    assert [error.value for error in at.error] == [bad.said.replace("{}", str(files))]
    for name, text in typed.items():
        assert (widget(at, f"start_{name}").value or "") == text


def test_an_opening_can_be_cancelled(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: Start, __: Worker, job: Job) -> None:
        while True:
            job.check()
            time.sleep(0.01)

    monkeypatch.setattr(models, "_open", endless)
    monkeypatch.setattr(visit, "PATIENCE", 0.05)
    at = page()
    widget(at, "start_model").set_value(str(files / "net.pt2"))
    widget(at, "start_calibration").set_value(str(files / "few.npz"))
    widget(at, "start_open").click().run()
    next(button for button in at.button if button.label == "Cancel").click().run()
    deadline = time.monotonic() + 20
    while not at.info:
        assert time.monotonic() < deadline
        at.run()
    title = f"open {files / 'net.pt2'}"
    assert [i.value for i in at.info] == [f"{title}: cancelled. What was finished is kept."]
    assert widget(at, "start_model").value == str(files / "net.pt2")


def test_what_the_command_line_found_is_what_the_page_shows(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    data = ["--calibration", str(files / "few.npz"), "--evaluation", str(files / "more.npz")]
    said = result(capsys, ["run", str(files / "net.pt2"), *data, "-o", str(folder)])
    at = press_open(page(), model=folder)
    mine = workspace(at)
    assert list(mine.recipe.skipped) == list(said["search"]["skipped"])
    assert mine.recipe.calibrator == said["calibrator"]
    at.switch_page("../../pages/overview.py")
    at.session_state["overview_tab"] = "Calibrators"
    deadline = time.monotonic() + 60
    while not at.dataframe:  # no button is pressed: what was measured is known
        assert time.monotonic() < deadline
        at.run()
    shown = at.dataframe[0].value
    assert shown["calibrator"].tolist() == [row["calibrator"] for row in said["calibrators"]]
    assert shown["divergence"].tolist() == [row["divergence"] for row in said["calibrators"]]


def test_a_failed_opening_can_be_gone_back_from(files: Path) -> None:
    at = press_open(page(), model=files / "net.pt2", calibration=files / "few.npz")
    press_open(at, model=files / "notes.txt")
    widget(at, "start_back").click().run()
    assert "Ops" in [m.label for m in at.metric]
    assert not at.error


def test_a_run_folder_of_another_model_is_refused(files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    press_open(page(), model=files / "net.pt2", calibration=files / "few.npz", run=run)
    at = press_open(page(), model="sample:resnet", run=run)
    (error,) = at.error
    assert error.value.startswith(f"{run}: it belongs to another model (")


@pytest.mark.parametrize("field", ["model", "calibration", "evaluation", "metric"])
def test_code_is_refused_wherever_it_is_named(field: str) -> None:
    typed = Typed(**{"model": "sample:resnet", field: "os:getcwd"})
    if field == "model":
        typed = Typed(model="os:getcwd", calibration="sample:resnet")
    with pytest.raises(InputError, match="it is Python code, and opening it would run it"):
        opening.start_from(typed)


def test_a_metric_that_looks_like_a_sample_is_code() -> None:
    with pytest.raises(InputError, match="it is Python code"):
        opening.start_from(Typed(model="sample:resnet", metric="sample:resnet"))


def test_code_is_allowed_where_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_policy", Policy(allow_code=True))
    monkeypatch.setattr(st, "get_option", lambda _: "127.0.0.1")
    start = opening.start_from(Typed(model="pkg:net", calibration="sample:resnet"))
    assert start.model == "pkg:net"


def test_code_is_refused_on_a_server_that_others_can_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "_policy", Policy(allow_code=True))
    monkeypatch.setattr(st, "get_option", lambda _: "0.0.0.0")
    assert not opening.code_allowed()


def test_the_quotes_of_a_copied_path_do_not_count(files: Path) -> None:
    start = opening.start_from(
        Typed(model=f'"{files / "net.pt2"}" ', calibration=f"file://{files / 'few.npz'}")
    )
    assert (start.model, start.calibration) == (str(files / "net.pt2"), str(files / "few.npz"))


def test_the_names_on_the_form_are_those_of_the_engine() -> None:
    assert set(opening.PROFILES) == set(PROFILES)
    assert set(opening.METRICS) == set(METRICS)


@dataclass(frozen=True)
class Dropped:
    """An upload."""

    name: str
    content: bytes

    def getvalue(self) -> bytes:
        return self.content


def test_an_upload_is_kept_under_a_name_of_the_servers_own() -> None:
    files: dict[str, opening.Upload | None] = {
        "model": Dropped("../../etc/passwd.pt2", b"model"),
        "calibration": Dropped("c.npz", b"data"),
        "evaluation": None,
    }
    start = opening.uploaded(files, "cuda")
    path = Path(str(start.model))
    assert path.parent == opening.uploads()
    assert path.name.startswith("upload-")
    assert path.read_bytes() == b"model"
    assert start.evaluation is None
    assert opening.uploaded(files, "cuda") == start


def test_an_upload_that_is_too_large_is_refused() -> None:
    files: dict[str, opening.Upload | None] = {
        "model": Dropped("m.pt2", bytes((opening.LIMIT_MB << 20) + 1)),
        "calibration": Dropped("c.npz", b""),
    }
    with pytest.raises(InputError) as refused:
        opening.uploaded(files, "cuda")
    assert str(refused.value) == (
        "m.pt2: it has more than 64 MB, and uploads may have no more. "
        "Put it on the machine that runs qviz, and type its path."
    )


def test_an_upload_of_another_kind_is_refused() -> None:
    files = {"model": Dropped("m.pkl", b""), "calibration": Dropped("c.npz", b"")}
    with pytest.raises(InputError) as refused:
        opening.uploaded(dict(files), "cuda")
    assert str(refused.value) == ("m.pkl: it is not a .pt2 file. Drop a .pt2 file as the model.")


def test_an_upload_that_did_not_arrive_is_asked_for() -> None:
    with pytest.raises(InputError) as refused:
        opening.uploaded({"model": None, "calibration": None}, "cuda")
    assert str(refused.value) == (
        "Upload of the model: there is none, or it has more than 64 MB. "
        "Drop a .pt2 file on it; type the path of a larger one."
    )


def test_uploads_are_opened_from_the_page(files: Path) -> None:
    at = page()
    for role, name in (("model", "net.pt2"), ("calibration", "few.npz")):
        content = (files / name).read_bytes()
        widget(at, f"start_upload_{role}").upload(name, content, "application/octet-stream")
    widget(at, "start_upload_open").click().run()
    deadline = time.monotonic() + 100
    while "Ops" not in [m.label for m in at.metric]:
        assert time.monotonic() < deadline
        assert not at.error
        at.run()


def test_a_recent_run_opens_what_was_open(files: Path, runs: Path) -> None:
    at = press_open(page(), model=files / "net.pt2", calibration=files / "few.npz")
    (folder,) = (p for p in runs.iterdir() if p.name.startswith("net-pt2"))
    again = page()
    widget(again, f"start_run_{folder.name}").click().run()
    first, second = workspace(at), workspace(again)
    assert second is not first
    assert second.opened is first.opened  # one session, not two on one folder


def test_a_run_whose_model_is_gone_is_said(files: Path, tmp_path: Path, runs: Path) -> None:
    copy = tmp_path / "gone.pt2"
    copy.write_bytes((files / "net.pt2").read_bytes())
    press_open(page(), model=copy, calibration=files / "few.npz")
    copy.unlink()
    (folder,) = (p for p in runs.iterdir() if p.name.startswith("gone"))
    with pytest.raises(InputError) as refused:
        opening.of_run(folder)
    assert str(refused.value) == (
        f"{folder}: its model is gone: {copy}. Put it back, or open the model elsewhere."
    )


def test_a_damaged_run_is_left_out_of_the_list(tmp_path: Path) -> None:
    for name, text in (("bad", "{"), ("odd", "[]"), ("good", '{"model": {"spec": "m.pt2"}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    (found,) = recent_runs(tmp_path)
    assert (found.path.name, found.model, found.calibration) == ("good", "m.pt2", None)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(5, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"), (86400 * 3, "3 days ago")],
)
def test_how_long_ago_is_said_in_words(seconds: int, said: str) -> None:
    now = datetime(2025, 1, 10, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == said
