"""`hetsched completion`: each shell's script; bash completes with its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hetsched.cli import VERBS, main
from hetsched.cli.completion import SHELLS

BASH = shutil.which("bash")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It knows all verbs, and options of theirs."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in (*VERBS, "gpu-memory", "rtx-4060-laptop-8gb", "on-demand-lru"))


def test_another_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fisch"]) == 2
    assert "did you mean 'fish'? (choose from bash, zsh, fish)" in capsys.readouterr().err


def test_a_missing_library_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["comp"], {"compare", "completion"}),
        (["trace", "sp"], {"split", "speculate"}),
        (["run", "--gpu-m"], {"--gpu-memory"}),
        (["simulate", "--hardware", "h100-p"], {"h100-pcie"}),
        (["trace", "info", "tra"], {"trace.npz"}),
    ],
)
def test_bash_completes(words: list[str], found: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "trace.npz").write_text("")
    before = ["hetsched", *words][-2]
    asked = f'COMP_WORDS=(hetsched {" ".join(words)}); COMP_CWORD={len(words)}; _shtab_hetsched "" {words[-1]} {before}'
    ran = subprocess.run(
        [str(BASH), "-c", f'source ./script; {asked}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(ran.stdout.split()) == found, ran.stderr
