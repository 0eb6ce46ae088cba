"""`hetsched trace`: every verb's document, exit codes, and one line for every error."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hetsched.traces.trace import FORMAT, load_trace, save_trace
from tests.cli.test_cli import call
from tests.documents import document_of
from tests.traces.made import made, same, saved
from tests.traces.test_import import jsonl, rows_of

VERBS = ("info", "record", "import", "split", "concat", "synth", "speculate")


def document(capsys: pytest.CaptureFixture[str], *argv: Any) -> Any:
    """The one JSON document that a verb prints; nothing else on standard output."""
    code, out, err = call(capsys, "trace", *map(str, argv), "--json")
    assert code == 0, err
    return document_of(out)


def refused(capsys: pytest.CaptureFixture[str], *argv: Any) -> str:
    """The one line of a verb that ends with 2."""
    code, out, err = call(capsys, "trace", *map(str, argv))
    assert (code, out) == (2, "")
    assert err.startswith("hetsched: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("verb", VERBS)
def test_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = call(capsys, "trace", verb, "--help")
    assert code == 0
    assert f"usage: hetsched trace {verb}" in out


def test_info(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The document, the tables, and a plot."""
    path = saved(tmp_path / "t.npz")
    found = document(capsys, "info", path, "--plot", tmp_path / "p.png")
    assert found["schema"] == "hetsched-trace-info/1"
    shape = [found[name] for name in ("tokens", "sequences", "layers", "num_experts", "top_k")]
    assert shape == [40, 4, 3, 8, 2]
    assert found["phases"] == {"decode": 40}
    assert len(found["entropy_bits"]) == len(found["repeat"]) == 3
    assert [row["gpu_fraction"] for row in found["hit_rate"]] == [0.05, 0.1, 0.25, 0.5, 0.75]
    assert (tmp_path / "p.png").exists()
    code, out, err = call(capsys, "trace", "info", str(path), "--sample-tokens", "16")
    assert (code, err) == (0, "")
    assert "sampled: figures below are of 16 tokens" in out
    assert "P(repeat)" in out


def test_info_lists_all_that_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On standard output, as lines or as JSON; the error itself stays one line."""
    arrays = made(meta={"top_k": 5}).arrays()
    np.savez(tmp_path / "t.npz", **{**arrays, "phase": np.full(40, 9, np.uint8)})
    code, out, err = call(capsys, "trace", "info", str(tmp_path / "t.npz"))
    assert (code, len(out.splitlines()), err.count("\n")) == (2, 2, 1)
    code, out, _ = call(capsys, "trace", "info", str(tmp_path / "t.npz"), "--json")
    assert code == 2
    assert len(document_of(out)["problems"]) == 2


def test_speculate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A file of verify steps, the figures of it, and the same in `trace info`."""
    path, out = saved(tmp_path / "t.npz"), tmp_path / "v.npz"
    options = ("--drafts", 3, "--acceptance", "0.9,0.6", "--same-routing", 0.25, "--seed", 4)
    found = document(capsys, "speculate", path, "-o", out, *options)
    info = document(capsys, "info", out)
    assert found["speculation"] == info["speculation"]
    assert 0 < found["speculation"]["acceptance"] < 1
    assert info["meta"]["speculated"] == {"drafts": 3, "acceptance": [0.9, 0.6], "same_routing": 0.25, "seed": 4}
    assert info["phases"]["verify"] > 40
    assert "not recorded)" in call(capsys, "trace", "info", str(out))[1]
    for wrong in (("--acceptance", "1.2"), ("--drafts", 0), ("--same-routing", "x"), ("--drafts", 64)):
        refused(capsys, "speculate", path, "-o", out, *options, *wrong)


def test_split_and_concat(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, a, b, c = saved(tmp_path / "t.npz"), tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"
    files = document(capsys, "split", path, "--at", 0.5, "--out", a, b)["files"]
    assert [(f["tokens"], f["sequences"]) for f in files] == [(20, 2), (20, 2)]
    assert document(capsys, "concat", a, b, "--out", c)["schema"] == "hetsched-trace-concat/1"
    assert same(load_trace(c), load_trace(path))
    for wanted, sequences in (("1:3", 2), (":1", 1), ("3:", 1)):
        assert document(capsys, "split", path, "--sequences", wanted, "--out", a)["files"][0]["sequences"] == sequences
    assert "--at makes two" in refused(capsys, "split", path, "--at", 0.5, "--out", a)
    assert "write A:B" in refused(capsys, "split", path, "--sequences", "2", "--out", a)
    assert "0:4" in refused(capsys, "split", path, "--sequences", "3:9", "--out", a)
    other = saved(tmp_path / "o.npz", experts=9)
    assert "num_experts" in refused(capsys, "concat", path, other, "--out", c)
    assert "cannot be written" in refused(capsys, "concat", path, "--out", tmp_path / "absent" / "c.npz")


@pytest.mark.parametrize(
    ("words", "sequences"),
    [
        ("--sequences 1:3 --out A FILE", [2]),
        ("--out A FILE --sequences 1:3", [2]),
        ("--sequences=1:3 --out A FILE", [2]),
        ("--out=A FILE --sequences 1:3", [2]),
        ("--out A --sequences 1:3 FILE", [2]),
        ("FILE --out A --sequences 1:3", [2]),
        ("--at 0.25 --out A B FILE", [1, 3]),
        ("--out A B FILE --at 0.25", [1, 3]),
        ("--out A B --at 0.25 FILE", [1, 3]),
        ("--at 0.25 FILE --out A B", [1, 3]),
    ],
)
def test_split_finds_its_file_wherever_it_stands(
    words: str, sequences: list[int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An --out before FILE does not take it for one more output, and never writes to it."""
    path, named = saved(tmp_path / "t.npz"), {"A": tmp_path / "a.npz", "B": tmp_path / "b.npz"}
    before = path.read_bytes()
    named["FILE"] = path
    argv = [_put(word, named) for word in words.split()]
    files = document(capsys, "split", *argv)["files"]
    assert [f["sequences"] for f in files] == sequences
    assert [f["file"] for f in files] == [str(named[name]) for name in "AB"[: len(sequences)]]
    assert path.read_bytes() == before


def _put(word: str, named: dict[str, Path]) -> str:
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{named.get(value, value)}"


def test_split_without_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "FILE" in refused(capsys, "split", "--sequences", "0:1", "--out", tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_import(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log, out = jsonl(tmp_path / "log.jsonl", rows_of(made())), tmp_path / "t.npz"
    found = document(capsys, "import", log, "--num-experts", 8, "--model", "m", "--out", out)
    assert found["files"][0]["tokens"] == 40
    assert load_trace(out).meta["model"] == "m"
    assert load_trace(out).meta["format"] == FORMAT
    assert "line 2: expert ids [3, 5]" in refused(capsys, "import", log, "--num-experts", 4, "--out", out)
    assert "no column 'x'" in refused(capsys, "import", log, "--num-experts", 8, "--columns", "layer=x", "--out", out)
    assert "absent.csv" in refused(capsys, "import", tmp_path / "absent.csv", "--num-experts", 8, "--out", out)


def test_synth(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Stated, and like a file; both are the same again with the same seed."""
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    shape = ["--layers", 2, "--experts", 16, "--top-k", 2, "--tokens", 3000, "--sequences", 10]
    stated = document(capsys, "synth", "--out", first, *shape, "--skew", 1, "--locality", 0.5, "--drift", 0)
    assert stated["params"]["locality"] == [0.5, 0.5]
    alike = document(capsys, "synth", "--like", first, "--tokens", 1500, "--drift", 0.5, "--out", second)["params"]
    assert (alike["tokens"], alike["sequences"], alike["drift"]) == (1500, 5, [0.5, 0.5])
    assert alike["locality"] == pytest.approx([0.5, 0.5], abs=0.08)
    assert "--top-k is needed" in refused(capsys, "synth", "--layers", 2, "--experts", 4, "--out", first)
    assert "--layers cannot" in refused(capsys, "synth", "--like", first, "--layers", 2, "--out", second)
    assert "skew is -1" in refused(capsys, "synth", "--out", first, *shape, "--skew", -1)


def test_record(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path) -> None:
    """Recorded once; again with the same arguments does nothing, with others is refused."""
    (tmp_path / "p.txt").write_text("the sea was calm\nthe sea\n")
    out = tmp_path / "t.npz"
    argv = ["record", "--model", checkpoint, "--prompts", tmp_path / "p.txt", "--out", out, "--max-new-tokens", 3]
    found = document(capsys, *argv)
    assert found["files"][0]["sequences"] == 2
    before = out.stat().st_mtime_ns
    assert document(capsys, *argv) == found
    assert out.stat().st_mtime_ns == before
    assert "recorded otherwise" in refused(capsys, *argv[:-1], 4)
    assert "absent.txt" in refused(capsys, "record", "--model", checkpoint, "--prompts", "absent.txt", "--out", out)
    save_trace(tmp_path / "foreign.npz", made())
    assert "recorded otherwise" in refused(capsys, *argv[:6], tmp_path / "foreign.npz")


def test_another_model_of_the_same_name_is_recorded_anew(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path
) -> None:
    """Other weights under the same config: the old trace is not theirs."""
    (tmp_path / "p.txt").write_text("the sea\n")
    folder, out = tmp_path / "model", tmp_path / "t.npz"
    shutil.copytree(checkpoint, folder)
    argv = ["record", "--model", folder, "--prompts", tmp_path / "p.txt", "--out", out, "--max-new-tokens", 2]
    document(capsys, *argv)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors")
    assert "recorded otherwise" in refused(capsys, *argv)


def test_missing_files_and_verbs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such file" in refused(capsys, "info", tmp_path / "absent.npz")
    assert "cannot draw" in refused(capsys, "info", saved(tmp_path / "t.npz"), "--plot", tmp_path / "p.doc")
    assert call(capsys, "trace")[0] == 2
