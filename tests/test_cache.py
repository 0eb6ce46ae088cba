"""A cache that is damaged or cannot be written stops nobody who can do without it, and others before their work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hetsched
from hetsched.cache import cache_folder, cache_place
from hetsched.demo_model import demo_model_path
from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.machine.fingerprint import fingerprint
from hetsched.machine.profile import Source
from hetsched.machine.store import store_profile, stored, stored_profiles
from tests.cli.test_cli import call

SHAPE = gallery.model("qwen3-30b-a3b")


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose only profile is no YAML; the path of that file."""
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path))
    (tmp_path / "profiles").mkdir()
    path = tmp_path / "profiles" / "a bad one.yaml"
    path.write_text("schema: [hetsched-profile/1\n")
    return path


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in a place where nothing can be made, whoever asks; its path."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path / "file" / "cache"))
    return tmp_path / "file" / "cache"


def test_a_bad_profile_spoils_only_itself(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are found; the bad one is named by list and doctor, with what mends it."""
    good = replace(gallery.machine("t4"), source=Source.MEASURED, datasheet=None, fingerprint=fingerprint(SHAPE))
    path = store_profile(good)
    assert stored_profiles() == [(path, good)]
    assert list(stored().damaged) == [damaged]
    code, out, err = call(capsys, "profiles", "list", "--json")
    assert (code, [row["path"] for row in json.loads(out)["measured"]]) == (0, [str(path)])
    assert err.count("\n") == 1
    assert str(damaged) in err
    assert "delete the file, or run 'hetsched profile'" in err
    _, out, _ = call(capsys, "doctor", "--json")
    (item,) = [item for item in json.loads(out)["items"] if item["name"] == "damaged profile"]
    assert str(damaged) in item["found"]
    assert item["fix"] == f"rm '{damaged}'"


def test_a_run_goes_on_with_nominal_figures_and_says_so(
    damaged: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
) -> None:
    notes = hetsched.resolve_hardware("cpu", SHAPE).notes
    assert any("nominal" in note for note in notes)
    assert any(str(damaged) in note for note in notes)
    argv = ["run", "--model", str(checkpoint), "--prompt", "the sea", "--max-new-tokens", "2", "--json"]
    assert call(capsys, *argv)[0] == 0


@pytest.mark.parametrize("verb", [["doctor"], ["profiles", "list"]])
def test_who_only_looks_needs_no_cache(unwritable: Path, capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    """Not even to be made: nothing is created for a look."""
    code, out, _ = call(capsys, *verb, "--json")
    assert code == 0
    if verb == ["doctor"]:
        (item,) = [item for item in json.loads(out)["items"] if item["name"] == "cache folder"]
        assert item["ok"] is False
        assert "HETSCHED_CACHE" in item["fix"]


def test_a_run_needs_no_cache(unwritable: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    argv = ["run", "--model", str(checkpoint), "--prompt", "the sea", "--max-new-tokens", "2", "--json"]
    assert call(capsys, *argv)[0] == 0


def test_what_must_be_kept_fails_before_the_work(
    unwritable: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No measurement and no build begins; one line names the folder and the way out."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("work has begun")

    monkeypatch.setattr("hetsched.measure.profile_run.measure_profile", never)
    monkeypatch.setattr("hetsched.demo_model.build_demo_model", never)
    code, out, err = call(capsys, "profile", "--quick")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(unwritable) in err
    assert "set HETSCHED_CACHE" in err
    with pytest.raises(InputError, match="set HETSCHED_CACHE"):
        demo_model_path()


def test_looking_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path / "c"))
    assert stored_profiles() == []
    assert cache_place("models") == tmp_path / "c" / "models"
    assert list(tmp_path.iterdir()) == []
    assert cache_folder("models").is_dir()
    assert list(cache_folder("models").iterdir()) == []
    monkeypatch.setenv("HETSCHED_CACHE", "~nobody-of-that-name/c")
    with pytest.raises(InputError, match="names no folder"):
        cache_folder()


def test_kernels_that_cannot_be_kept_are_compiled_all_the_same(tmp_path: Path) -> None:
    """numba finds no place: the source's folder and the user's cache are both closed to it."""
    pytest.importorskip("numba")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__pycache__").write_text("in the way")
    (tmp_path / "package" / "kernel.py").write_text(
        "from hetsched.jit import compiled_and_kept\n\n@compiled_and_kept\ndef twice(x):\n    return 2 * x\n"
    )
    code = "from package.kernel import twice; print(twice(21), len(twice.signatures))"
    env = {**os.environ, "HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/c", "NUMBA_CACHE_DIR": "/dev/null/n"}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "42 1\n"
