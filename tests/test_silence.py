"""What C code prints while it is silenced does not reach standard output, all else does."""

from __future__ import annotations

import ctypes
import os

import pytest

from qviz.search.silence import silenced


def test_only_what_c_prints_in_between_is_lost(capfd: pytest.CaptureFixture[str]) -> None:
    c = ctypes.CDLL(None)
    c.puts(b"before")
    print("python before")
    with silenced():
        c.puts(b"inside")
        os.write(1, b"inside too\n")
    c.puts(b"after")
    c.fflush(None)
    print("python after")
    said = capfd.readouterr().out
    assert "inside" not in said
    assert sorted(said.split("\n")) == ["", "after", "before", "python after", "python before"]


def test_an_error_inside_gives_standard_output_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="wrong"), silenced():
        raise ValueError("wrong")
    os.write(1, b"still there\n")
    assert capfd.readouterr().out == "still there\n"
