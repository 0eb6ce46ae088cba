"""The wheel: built, installed into a clean environment, and run from there."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIGHT = ["numpy", "pyyaml", "rich", "platformdirs"]  # all that these verbs need; torch stays out on purpose


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin folder of a new environment with the wheel in it and nothing of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env")  # our pip installs into it: to give it one of its own takes longer than all the rest
    bin_folder = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(bin_folder / "python"), "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *LIGHT], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    return bin_folder


def output(clean: Path, tmp_path: Path, *argv: str) -> str:
    done = subprocess.run(
        [clean / "hetsched", *argv], cwd=tmp_path, capture_output=True, text=True, env={"HETSCHED_CACHE": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_and_profiles_from_the_wheel(clean: Path, tmp_path: Path) -> None:
    assert "usage: hetsched" in output(clean, tmp_path, "--help")
    assert "rtx-4060-laptop-8gb" in output(clean, tmp_path, "profiles", "list")
    assert "rtx-4060-laptop-8gb" in output(clean, tmp_path, "profiles", "show", "rtx-4060-laptop-8gb")


def test_missing_torch_is_one_line_with_the_command(clean: Path, tmp_path: Path) -> None:
    """Without torch, `run` says what to install instead of a traceback."""
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_moe"}')
    argv = [clean / "hetsched", "run", "--model", str(tmp_path), "--prompt", "x"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install torch" in done.stderr
    assert len(done.stderr.splitlines()) == 1
