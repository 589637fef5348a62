"""The run folder: nothing finished is lost, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qviz import store_codec, store_lock
from qviz.errors import RunFolderError
from qviz.store import Manifest, RunFolder, Source

MODEL = Source("net.pt2", "a" * 32)
CALIBRATION = Source("calib/", "b" * 32, 100)
EVALUATION = Source("val/", "c" * 32, 400)
MANIFEST = Manifest(MODEL, CALIBRATION, EVALUATION, seed=7, command=("qviz", "run", "net.pt2"))

#: Locks the folder, adds rows until it is killed, and says so after each.
WRITER = """
import sys
from qviz.store import Manifest, RunFolder, Source
run = RunFolder.open(sys.argv[1], Manifest(Source("net.pt2", "a" * 32)))
for i in range(len(run.rows("scores")), 10**9):
    run.append("scores", {"i": i, "padding": "x" * 3000})
    print(i, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def message(path: Path, manifest: Manifest = MANIFEST) -> str:
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open(path, manifest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- rows ----


def test_rows_come_back_in_order_after_reopening(folder: Path) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        for i in range(3):
            run.append("scores", {"op": f"conv{i}", "score": i / 3})
    with RunFolder.open(folder, MANIFEST) as run:
        run.append("scores", {"op": "last", "score": None})
        assert [row["op"] for row in run.rows("scores")] == ["conv0", "conv1", "conv2", "last"]
        assert run.rows("scores")[1]["score"] == 1 / 3
        assert run.rows("other") == []


def test_a_row_is_one_line_of_strict_json(folder: Path) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        run.append("scores", {"text": "a\nb", "nan": math.nan, "array": np.arange(3)})
    content = (folder / "scores.jsonl").read_text(encoding="utf-8")
    assert content.count("\n") == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(content, parse_constant=refuse)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="abc"), inner),
    max_leaves=10,
)


@given(row=st.dictionaries(st.text(alphabet="abc"), VALUES))
@settings(max_examples=30, deadline=None)
def test_plain_values_come_back_equal(row: dict[str, object]) -> None:
    assert store_codec.loads(store_codec.dumps(row)) == row


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_arrays_come_back_exactly(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    back = store_codec.loads(store_codec.dumps({"a": array}))["a"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    back[...] = 0  # it is the caller's own


def test_tensors_numbers_and_paths_are_values() -> None:
    row = {"t": torch.tensor([1.5, math.inf]), "n": np.float32(0.5), "p": Path("a/b"), "k": (1, 2)}
    back = store_codec.loads(store_codec.dumps(row))
    assert back["t"].tolist() == [1.5, math.inf]
    assert (back["n"], back["p"], back["k"]) == (0.5, "a/b", [1, 2])
    for value in (math.inf, -math.inf):
        assert store_codec.loads(store_codec.dumps(value)) == value
    assert math.isnan(store_codec.loads(store_codec.dumps(math.nan)))


def test_other_objects_are_refused_before_anything_is_written(folder: Path) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        with pytest.raises(TypeError, match="a object cannot be saved as JSON"):
            run.append("scores", {"x": object()})
        assert not (folder / "scores.jsonl").exists()


@pytest.mark.parametrize(
    "value",
    [
        '{"__array__": "!", "dtype": "<f4", "shape": [1]}',
        '{"__array__": "AAAA", "dtype": "|O", "shape": [1]}',
        '{"__array__": "AAAAAA==", "dtype": "<f4", "shape": [2]}',
        '{"__array__": "AAAAAA=="}',
    ],
)
def test_damaged_arrays_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="a saved array is damaged"):
        store_codec.loads(value)


def test_threads_may_add_rows_at_the_same_time(folder: Path) -> None:
    with RunFolder.open(folder, MANIFEST) as run:

        def work(thread: int) -> None:
            for i in range(20):
                run.append("scores", {"thread": thread, "i": i, "padding": "x" * 2000})

        threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = {(row["thread"], row["i"]) for row in run.rows("scores")}
    assert rows == {(t, i) for t in range(4) for i in range(20)}


# ---- killed processes ----


def test_a_process_killed_while_adding_rows_loses_at_most_the_last(folder: Path) -> None:
    told = -1
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(30):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        assert (folder / store_lock.NAME).exists()
        rows = RunFolder.view(folder).rows("scores")
        assert [row["i"] for row in rows] == list(range(len(rows)))
        assert len(rows) > told
    with RunFolder.open(folder, Manifest(MODEL)) as run:
        count = len(run.rows("scores"))
        run.append("scores", {"i": count})
        assert [row["i"] for row in run.rows("scores")] == list(range(count + 1))


@pytest.mark.parametrize(
    "torn", [b'{"i":', b'{"i":1}', b"\0\0\0\0\0\0\0\n", b"\xff\xfe", b"\0" * 9]
)
def test_half_a_line_is_not_read_and_cut_off_before_the_next(folder: Path, torn: bytes) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        run.append("scores", {"i": 0})
    path = folder / "scores.jsonl"
    with path.open("ab") as file:
        file.write(torn)
    with RunFolder.open(folder, MANIFEST) as run:
        assert run.rows("scores") == [{"i": 0}]
        assert path.read_bytes().endswith(torn)  # looking changes nothing
        run.append("scores", {"i": 1})
        assert run.rows("scores") == [{"i": 0}, {"i": 1}]
    assert path.read_bytes() == b'{"i":0}\n{"i":1}\n'


def test_half_a_first_line_is_no_row(folder: Path) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        (folder / "scores.jsonl").write_bytes(b'{"i"')
        assert run.rows("scores") == []
        run.append("scores", {"i": 0})
        assert run.rows("scores") == [{"i": 0}]


def test_a_damaged_line_in_the_middle_is_named(folder: Path) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        (folder / "scores.jsonl").write_bytes(b'{"i":0}\n{"i":\n{"i":2}\n')
        with pytest.raises(RunFolderError) as caught:
            run.rows("scores")
    assert str(caught.value) == (
        f"{folder}/scores.jsonl: line 2 is damaged. Delete that line to compute it again."
    )


def test_what_a_killed_process_was_writing_is_cleared_away(folder: Path) -> None:
    RunFolder.open(folder, MANIFEST).close()
    (folder / ".tmp-1234").write_text("half", encoding="utf-8")
    RunFolder.open(folder, MANIFEST).close()
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json"]


# ---- full disks ----


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = (
    "it cannot be read or written (no space left on device). "
    "Free some space or name another run folder; what was finished is kept."
)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_keeps_the_rows_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        run.append("scores", {"i": 0})
        with monkeypatch.context() as patch:
            patch.setattr(f"qviz.store_files.os.{call}", full)
            with pytest.raises(RunFolderError) as caught:
                run.append("scores", {"i": 1})
        assert str(caught.value) == f"{folder}/scores.jsonl: {FULL}"
        assert (folder / "scores.jsonl").read_bytes() == b'{"i":0}\n'
        run.append("scores", {"i": 2})
        assert run.rows("scores") == [{"i": 0}, {"i": 2}]


def test_half_a_row_written_to_a_full_disk_is_taken_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        run.append("scores", {"i": 0})
        real, calls = os.write, []

        def half(handle: int, content: memoryview) -> int:
            calls.append(len(content))
            return real(handle, content[:3]) if len(calls) == 1 else full()

        with monkeypatch.context() as patch:
            patch.setattr("qviz.store_files.os.write", half)
            with pytest.raises(RunFolderError):
                run.append("scores", {"i": 1})
        assert (folder / "scores.jsonl").read_bytes() == b'{"i":0}\n'


def test_a_write_in_pieces_is_a_whole_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with RunFolder.open(folder, MANIFEST) as run:
        monkeypatch.setattr("qviz.store_files.os.write", lambda h, content: real(h, content[:2]))
        run.append("scores", {"i": 12345})
        assert run.rows("scores") == [{"i": 12345}]


def test_a_full_disk_keeps_the_file_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        run.write_json("recipe", {"version": 1})
        with monkeypatch.context() as patch:
            patch.setattr("qviz.store_files.os.fsync", full)
            with pytest.raises(RunFolderError) as caught:
                run.write_json("recipe", {"version": 2})
        assert str(caught.value) == f"{folder}/recipe.json: {FULL}"
        assert run.read_json("recipe") == {"version": 1}
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "recipe.json"]


# ---- whole files ----


def test_whole_files_come_back(folder: Path) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        run.write_json("recipe", {"a": [1, 2.5], "array": np.ones(2)})
        run.write_arrays("histograms", {"conv1": np.arange(4), "fc/input": np.ones(2)})
        run.write_text("report.html", "<p>ü</p>")
        assert run.read_json("recipe")["a"] == [1, 2.5]
        arrays = run.read_arrays("histograms")
        assert arrays is not None
        assert arrays["conv1"].tolist() == [0, 1, 2, 3]
        assert list(arrays) == ["conv1", "fc/input"]
        assert (folder / "report.html").read_text(encoding="utf-8") == "<p>ü</p>"
        assert run.read_json("other") is None
        assert run.read_arrays("other") is None


@pytest.mark.parametrize("name", ["recipe.json", "histograms.npz"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    with RunFolder.open(folder, MANIFEST) as run:
        (folder / name).write_bytes(b"{damaged")
        with pytest.raises(RunFolderError) as caught:
            _ = run.read_json("recipe") if name == "recipe.json" else run.read_arrays("histograms")
    assert str(caught.value) == (
        f"{folder}/{name}: the file is damaged. Delete it to compute it again."
    )


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden"])
def test_names_stay_inside_the_folder(folder: Path, name: str) -> None:
    with RunFolder.open(folder, MANIFEST) as run, pytest.raises(RunFolderError) as caught:
        run.write_json(name, {})
    assert str(caught.value) == (
        f"{folder}: {name}.json is not a plain file name. "
        "Use letters, digits, dots, dashes and underscores."
    )


# ---- whose folder it is ----


def test_the_manifest_says_what_was_run_with_what(folder: Path) -> None:
    RunFolder.open(folder, MANIFEST).close()
    values = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert values["format"] == "qviz-run"
    assert values["version"] == 1
    assert values["model"] == {"spec": "net.pt2", "digest": "a" * 32, "count": None}
    assert values["calibration"] == {"spec": "calib/", "digest": "b" * 32, "count": 100}
    assert values["seed"] == 7
    assert values["command"] == ["qviz", "run", "net.pt2"]
    assert set(values["versions"]) == {"python", "torch", "numpy", "qviz"}
    assert RunFolder.view(folder).manifest == MANIFEST


def test_the_same_model_under_another_name_goes_on(folder: Path) -> None:
    RunFolder.open(folder, MANIFEST).close()
    moved = Manifest(Source("moved/net.pt2", MODEL.digest), CALIBRATION, EVALUATION)
    with RunFolder.open(folder, moved) as run:
        assert run.manifest == MANIFEST


def test_data_that_was_not_there_yet_is_added(folder: Path) -> None:
    RunFolder.open(folder, Manifest(MODEL, CALIBRATION)).close()
    RunFolder.open(folder, MANIFEST).close()
    assert RunFolder.view(folder).manifest.evaluation == EVALUATION
    with RunFolder.open(folder, Manifest(MODEL)) as run:
        assert run.manifest.calibration == CALIBRATION


def test_a_folder_of_another_model_or_data_is_refused(folder: Path) -> None:
    RunFolder.open(folder, MANIFEST).close()
    cure = "Name another run folder, or give what it was made with; the order of the data counts."
    other = Source("x", "d" * 32)
    assert message(folder, Manifest(other, CALIBRATION, EVALUATION)) == (
        f"{folder}: it belongs to another model (aaaaaaaa, now dddddddd). {cure}"
    )
    assert message(folder, Manifest(MODEL, other, other)) == (
        f"{folder}: it belongs to another calibration data (bbbbbbbb, now dddddddd) and another "
        f"evaluation data (cccccccc, now dddddddd). {cure}"
    )
    assert not (folder / store_lock.NAME).exists()


def test_versions_that_changed_are_told(folder: Path) -> None:
    old = Manifest(MODEL, versions={**MANIFEST.versions, "torch": "0.1"})
    RunFolder.open(folder, old).close()
    now = MANIFEST.versions["torch"]
    assert RunFolder.view(folder).manifest.changed_versions() == {"torch": ("0.1", now)}


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    assert message(tmp_path) == (
        f"{tmp_path}: there is no run in it, but other files (thesis.tex). "
        "Name a new or an empty folder."
    )


def test_a_damaged_or_newer_manifest_is_refused(folder: Path) -> None:
    RunFolder.open(folder, MANIFEST).close()
    path = folder / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "version": 2}), encoding="utf-8")
    assert message(folder) == (
        f"{path}: it is of version 2, written by a newer qviz; this one knows 1. "
        "Update qviz, or name another run folder."
    )
    for content in ("{", "[]", "{}", json.dumps({**values, "format": "other"})):
        path.write_text(content, encoding="utf-8")
        assert message(folder) == (
            f"{path}: it is damaged, or not of a run. Name another run folder."
        )


def test_a_folder_without_a_run_cannot_be_viewed(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RunFolderError) as caught:
            RunFolder.view(path)
        assert str(caught.value) == (
            f"{path}: there is no run in it. Name the folder that a run was given."
        )


def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert message(file) == f"{file}: it is a file, not a folder. Name a folder."
    assert message(file / "run") == (
        f"{file}/run: it cannot be read or written (not a directory). "
        "Free some space or name another run folder; what was finished is kept."
    )

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", denied)
    assert message(tmp_path / "run") == (
        f"{tmp_path}/run: it cannot be read or written (permission denied). "
        "Free some space or name another run folder; what was finished is kept."
    )


# ---- one writer ----


def test_a_second_process_is_refused_while_the_first_is_alive(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        owner = json.loads((folder / store_lock.NAME).read_text(encoding="utf-8"))
        text = message(folder, Manifest(MODEL))
        assert RunFolder.view(folder).rows("scores")
        writer.kill()
    assert text == (
        f"{folder}: process {writer.pid} on {owner['host']} is writing to it. "
        "Wait for it to end or stop it, or name another run folder."
    )


def lock(folder: Path, **changes: object) -> None:
    RunFolder.open(folder, MANIFEST).close()
    store_lock.acquire(folder)
    path = folder / store_lock.NAME
    owner = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(owner), encoding="utf-8")


def test_a_lock_of_another_machine_is_kept(folder: Path) -> None:
    lock(folder, host="elsewhere", pid=12)
    assert message(folder) == (
        f"{folder}: process 12 on elsewhere is writing to it. "
        f"Wait for it to end; if it is not running any more, delete {folder}/lock.json."
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_lock_of_an_earlier_process_with_the_same_number_is_taken_over(folder: Path) -> None:
    lock(folder, started=1)
    RunFolder.open(folder, MANIFEST).close()


def test_a_lock_without_an_owner_is_taken_over_when_it_is_old(folder: Path) -> None:
    lock(folder)
    path = folder / store_lock.NAME
    path.write_text("", encoding="utf-8")
    assert message(folder) == (
        f"{folder}: another process took its lock at the same time. Try again in a moment."
    )
    os.utime(path, (0, 0))
    RunFolder.open(folder, MANIFEST).close()


def test_opening_again_in_the_same_process_closes_the_earlier_one(folder: Path) -> None:
    first = RunFolder.open(folder, MANIFEST)
    first.append("scores", {"i": 0})
    with RunFolder.open(folder, MANIFEST) as second:
        second.append("scores", {"i": 1})
        with pytest.raises(RunFolderError) as caught:
            first.append("scores", {"i": 2})
        assert len(second.rows("scores")) == 2
    assert str(caught.value) == (
        f"{folder}: it is not open for writing here (any more). "
        "Open it again; what was finished is kept."
    )


def test_a_viewer_cannot_write(folder: Path) -> None:
    RunFolder.open(folder, MANIFEST).close()
    viewer = RunFolder.view(folder)
    with pytest.raises(RunFolderError):
        viewer.append("scores", {"i": 0})
    with pytest.raises(RunFolderError):
        viewer.write_json("recipe", {})


def test_the_lock_goes_when_the_folder_is_closed_or_forgotten(folder: Path) -> None:
    run = RunFolder.open(folder, MANIFEST)
    assert (folder / store_lock.NAME).exists()
    run.close()
    run.close()
    assert not (folder / store_lock.NAME).exists()
    run = RunFolder.open(folder, MANIFEST)
    del run
    gc.collect()
    assert not (folder / store_lock.NAME).exists()
