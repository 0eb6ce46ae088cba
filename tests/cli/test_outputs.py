"""Outputs: never an input, never the same twice, never a device, and checked before any work is done."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hetsched.cli import main
from hetsched.errors import InputError
from hetsched.files import check_file, check_folder, replacing
from hetsched.traces.synth import SynthParams, synthesise
from hetsched.traces.trace import load_trace

LOG = "layer,token,experts\n0,0,1;2\n0,1,2;3\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A small trace of four sequences."""
    path = tmp_path / "a.npz"
    numbers = {"layers": 2, "experts": 8, "top_k": 2, "tokens": 40, "sequences": 4}
    synthesise(SynthParams.uniform(**numbers, skew=1.0, locality=0.2, drift=0.1), 0, path)
    return path


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line of a command that ends with exit code 2."""
    capsys.readouterr()
    code = main([str(part) for part in argv])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    return err


def test_an_imported_log_is_not_its_own_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text(LOG)
    assert "is an input" in refused(capsys, "trace", "import", log, "--num-experts", 4, "--out", log)
    assert log.read_text() == LOG


@pytest.mark.parametrize("outs", [["a.npz"], ["./a.npz"], ["link.npz"]])
def test_a_trace_is_not_cut_into_itself(
    capsys: pytest.CaptureFixture[str], trace: Path, monkeypatch: pytest.MonkeyPatch, outs: list[str]
) -> None:
    before = trace.read_bytes()
    (trace.parent / "link.npz").hardlink_to(trace)
    monkeypatch.chdir(trace.parent)
    assert "is an input" in refused(capsys, "trace", "split", "a.npz", "--sequences", "0:1", "--out", *outs)
    assert trace.read_bytes() == before


def test_two_halves_need_two_names(capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    half = trace.with_name("b.npz")
    assert "named twice" in refused(capsys, "trace", "split", trace, "--at", 0.5, "--out", half, half)
    assert not half.exists()


def test_an_output_that_stands_in_an_input_folder_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, prompts = tmp_path / "model", tmp_path / "prompts.txt"
    model.mkdir()
    (model / "config.json").write_text("{}")
    prompts.write_text("hello\n")
    argv = ["trace", "record", "--model", model, "--prompts", prompts, "--out", model / "config.json"]
    assert "is an input" in refused(capsys, *argv)
    assert (model / "config.json").read_text() == "{}"


def test_a_pipe_stays_a_pipe(capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    pipe = trace.with_name("pipe")
    os.mkfifo(pipe)
    assert "is a pipe" in refused(capsys, "trace", "split", trace, "--sequences", "0:1", "--out", pipe)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


@pytest.mark.parametrize("link", ["/dev/null", "a.npz", "nowhere"])
def test_a_link_stays_a_link(capsys: pytest.CaptureFixture[str], trace: Path, link: str) -> None:
    out = trace.with_name("out.npz")
    out.symlink_to(link)
    assert f"a link to {link}" in refused(capsys, "trace", "split", trace, "--sequences", "0:1", "--out", out)
    assert os.readlink(out) == link


@pytest.mark.parametrize(
    "place", ["/dev/null", "/dev/stdout", "/proc/x.npz", "/nope/x.npz", "x" * 300, "x" * 250, "-", "a\0b"]
)
def test_places_that_are_none(capsys: pytest.CaptureFixture[str], trace: Path, place: str) -> None:
    assert place[:40].replace("\0", "\\x00") in refused(capsys, "trace", "synth", "--like", trace, "--out", place)


def test_an_empty_name_is_bad_usage(capsys: pytest.CaptureFixture[str], trace: Path) -> None:
    assert "is empty" in refused(capsys, "trace", "synth", "--like", trace, "--out", "")


@pytest.mark.parametrize(
    "argv",
    [
        ["compare", "--trace", "T", "--model", "gpt-oss-20b", "--hardware", "rtx-4090", "--plot", "/proc/f.png"],
        ["compare", "--trace", "T", "--model", "gpt-oss-20b", "--hardware", "rtx-4090", "--plot", "/proc/plots"],
        ["compare", "--trace", "T", "--model", "gpt-oss-20b", "--hardware", "rtx-4090", "--plot", "T"],
        ["solve", "--random", "3", "--plot", "/nope/f.png"],
        ["solve", "--random", "3", "--plot", "x.bmp"],
        ["profile", "--out", "/nope/p.yaml"],
        ["profile", "--out", "/proc/p.yaml"],
        ["model", "build", "--out", "/proc/model"],
        ["model", "build", "--out", "T"],
        ["model", "build", "--out", "/"],
        ["model", "build", "--out", "-"],
        ["model", "build", "--out", "~nobody-of-that-name/model"],
        ["model", "build", "--out", "nowhere/../new"],
        ["compare", "--trace", "T", "--model", "gpt-oss-20b", "--hardware", "rtx-4090", "--plot", "-"],
        ["bench", "--engine-overhead", "--plot", "/nope/f.png"],
        ["trace", "info", "T", "--plot", "x.bmp"],
        ["profiles", "show", "rtx-4090", "--plot", "/nope/f.png"],
    ],
    ids=" ".join,
)
def test_outputs_are_checked_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trace: Path, argv: list[str]
) -> None:
    """No verb is entered: whatever it would have done first raises."""
    from hetsched.cli import bench, compare, model, profile, profiles, solve
    from hetsched.cli import trace as trace_verb

    def entered(args: object) -> int:
        raise AssertionError("the verb began")

    monkeypatch.chdir(trace.parent)
    for verb in (bench, compare, profile, profiles, solve, trace_verb):
        monkeypatch.setattr(verb, "run", entered)
    monkeypatch.setattr(model, "_build", entered)
    refused(capsys, *(str(trace) if part == "T" else part for part in argv))


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--prompt", "x", "--model", "FILE", "--log", "FILE"],
        ["run", "--prompt", "x", "--model", "FILE", "--learned", "LINK"],
        ["run", "--prompt", "x", "--model", "FOLDER", "--log", "FILE"],
        ["run", "--prompt", "x", "--model", "demo", "--hardware", "FILE", "--log", "FILE"],
        ["simulate", "--trace", "T", "--model", "m", "--hardware", "h", "--strategy", "a+b=FILE", "--log", "FILE"],
        ["serve", "--model", "FILE", "--learned", "FILE"],
    ],
    ids=" ".join,
)
def test_what_may_be_a_name_is_an_input_where_it_is_a_file(
    capsys: pytest.CaptureFixture[str], trace: Path, argv: list[str]
) -> None:
    """A model, a machine, an argument of a strategy; under another name of the file, and inside a folder, too."""
    (trace.parent / "folder").mkdir()
    places = {"T": trace, "FOLDER": trace.parent / "folder", "FILE": trace.parent / "folder" / "model.gguf"}
    places["FILE"].write_text("weights")
    places["LINK"] = trace.parent / "link"
    places["LINK"].hardlink_to(places["FILE"])
    words = [word.replace("FILE", str(places["FILE"])) if "=" in word else places.get(word, word) for word in argv]
    assert "is an input" in refused(capsys, *words)
    assert places["FILE"].read_text() == "weights"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of resources")
@pytest.mark.parametrize("verb", ["synth", "import", "split"])
def test_a_full_disk_is_said_in_a_line(trace: Path, verb: str) -> None:
    """Files of this process may have so many bytes and no more: what is written to in the end fails half-way."""
    log, folder = trace.with_name("log.csv"), trace.parent / "out"
    folder.mkdir()
    log.write_text("layer,token,experts\n" + "".join(f"0,{token},1;2\n" for token in range(2000)))
    argv = {
        "synth": ["--layers", "9", "--experts", "8", "--top-k", "2", "--tokens", "4000", "--sequences", "4"],
        "import": [str(log), "--num-experts", "4"],
        "split": [str(trace), "--sequences", "0:3"],
    }[verb]
    program = f"""
import resource, sys
from hetsched.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
sys.exit(main({["trace", verb, *argv, "--out", str(folder / "x.npz")]!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "x.npz: cannot be written: File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(folder.iterdir())


def test_a_plot_beside_nothing_needs_no_folder_yet(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "plots")
    assert not (tmp_path / "new").exists()


def test_a_derived_profile_can_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "derive", "rtx-4090", "--out", "-"]) == 0
    assert capsys.readouterr().out.startswith("schema: hetsched-profile/1")
    assert not Path("-").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_what_is_interrupted_leaves_the_old_file(tmp_path: Path, error: BaseException | type[BaseException]) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new, half of it")
            raise error

    with pytest.raises((KeyboardInterrupt, ValueError, InputError)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_trace_can_be_replaced_while_it_is_mapped(trace: Path) -> None:
    """From Python, where the caller says so: the arrays stay those of the old file."""
    from hetsched.traces.trace import save_trace

    old = load_trace(trace)
    kept = old.experts_TLK.copy()
    save_trace(trace, old)
    assert (old.experts_TLK == kept).all()


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "x", [f"{i}" * 4096 for i in range(8)]

    def write(text: str) -> None:
        with replacing(path) as temporary:
            temporary.write_text(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("kept")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anything
    with pytest.raises(InputError, match="read-only"):
        check_file(path)
