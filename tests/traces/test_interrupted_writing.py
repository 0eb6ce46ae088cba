"""Ctrl-C at any line of writing: nothing is there, or all of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from hetsched import demo_model, files
from hetsched.demo_model.store import publish
from hetsched.files import replacing, temporary_folder
from hetsched.traces import from_rows, partial, writer
from hetsched.traces.archive import write_arrays
from hetsched.traces.from_rows import import_rows
from hetsched.traces.rows import row_file
from hetsched.traces.synth import SynthParams, synthesise
from tests.at_line import AtLine

from .made import made
from .test_writer import append, resumable

OURS = [module.__file__ for module in (files, from_rows, partial, writer)]
OURS.append(str(Path(demo_model.__file__).with_name("store.py")))
AROUND = ("temporary_folder", "remove_folder", "__enter__", "__exit__", "_abandon", "_close")
LOG = "layer,token,experts\n0,0,1;2\n0,1,2;3\n"


def _synthesised(out: Path) -> None:
    numbers = {"layers": 2, "experts": 8, "top_k": 2, "tokens": 40, "sequences": 4}
    synthesise(SynthParams.uniform(**numbers, skew=1.0, locality=0.2, drift=0.1), 0, out)


def _imported(out: Path) -> None:
    log = out.parent.parent / "log.csv"
    log.write_text(LOG)
    import_rows(row_file(log), 4, out)


def _replaced(out: Path) -> None:
    with replacing(out) as new:
        new.write_text("whole")


def _published(out: Path) -> None:
    publish(out, lambda folder: (folder / "config.json").write_text("whole") and None)


@pytest.mark.parametrize("write", [_synthesised, _imported, _replaced, _published])
def test_nothing_or_all(tmp_path: Path, write: Callable[[Path], None]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write(folder / "whole")
    whole = _content(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with _at_line() as every:
        write(folder / "whole")
    for line in range(1, every.lines + 1):
        shutil.rmtree(folder)
        folder.mkdir()
        tracer = _at_line(line)
        with pytest.raises(KeyboardInterrupt), tracer:
            write(folder / "whole")
        assert _content(folder) in ({}, whole), tracer.where


def _at_line(at: int = 0) -> AtLine:
    """Not on the ways into `with` blocks and out of them, where Python has gaps; cleaning up is tested below."""
    return AtLine(at, lambda frame: frame.f_code.co_filename in OURS and frame.f_code.co_name not in AROUND)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} | {
        str(path.relative_to(folder)): b"" for path in folder.rglob("*") if path.is_dir()
    }


def test_unfinished_work_is_removed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is out of the way by then, under a name that nobody would know again."""
    plain = shutil.rmtree

    def interrupted(*arguments: object, **more: object) -> NoReturn:
        monkeypatch.setattr(shutil, "rmtree", plain)
        raise KeyboardInterrupt

    with resumable(tmp_path / "x.npz") as trace:
        append(trace, made(), slice(0, 40))
        trace.commit(1)
        monkeypatch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trace.finish()
    assert os.listdir(tmp_path) == ["x.npz"]


def test_a_folder_that_was_just_made_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python hears of a signal when the system's call has returned."""
    plain = Path.mkdir

    def interrupted(path: Path, mode: int = 0o777) -> NoReturn:
        plain(path, mode)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path, "x"):
        pass
    with pytest.raises(KeyboardInterrupt):
        _synthesised(tmp_path / "x.npz")
    assert not os.listdir(tmp_path)


def test_arrays_are_written_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted when the file has its name: it stays, and is whole."""
    plain = os.replace

    def interrupted(source: Path, target: Path) -> NoReturn:
        plain(source, target)
        raise KeyboardInterrupt

    arrays = made().arrays()
    write_arrays(tmp_path / "first.npz", arrays)
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_arrays(tmp_path / "second.npz", arrays)
    assert sorted(os.listdir(tmp_path)) == ["first.npz", "second.npz"]
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
