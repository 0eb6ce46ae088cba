"""Options: what makes no sense is refused, by one line, before any work; nothing is accepted and ignored."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.cli import option_types as types
from hetsched.demo_model import build_demo_model
from hetsched.dispatch.instances import trace_problems
from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.machine.sizes import parse_bytes
from hetsched.measure.experts import pool_size
from hetsched.replay import compare
from hetsched.replay.steps import steps_of
from hetsched.traces.meta import MAX_TEXT, meta_problems, trace_meta
from hetsched.traces.split import merged_meta
from tests.cli.test_cli import call
from tests.traces.made import made, saved

REPLAY = ["--trace", "t.npz", "--model", "gpt-oss-20b", "--hardware", "t4"]
SYNTH = ["trace", "synth", "--layers", "2", "--experts", "4", "--top-k", "1", "--tokens", "9", "--sequences", "1"]
MACHINE_OPTIONS = (
    "--hardware",
    "--gpu-memory",
    "--policy",
    "--solver",
    "--forecaster",
    "--stand-in-for",
    "--cpu-kernel",
)
RUN = ["run", "--model", "absent", "--prompt", "x"]
REFUSED = [
    *([*RUN, option, ""] for option in (*MACHINE_OPTIONS, "--gpu-precision")),
    *([*verb, "--time-scale", "inf"] for verb in (RUN, ["demo"], ["verify", "--model", "m"])),
    *([*RUN, "--time-scale", scale] for scale in ("nan", "1e308", "0.5", "-1", "x")),
    [*RUN, "--hardware", "cpu", "--time-scale", "4"],
    [*RUN, "--time-scale", "4"],
    ["run", "--model", "", "--prompt", "x"],
    ["verify", "--model", "m", "--gpu-memory", "10%,10%"],
    ["verify", "--model", "m", "--gpu-memory", "10%,,25%"],
    ["verify", "--model", "m", "--hardware", "cpu", "--gpu-memory", "25%"],
    ["verify", "--model", "m", "--perplexity", "--gpu-precision", "int4", "--max-new-tokens", "3"],
    *(
        ["compare", *REPLAY, option, ""]
        for option in ("--strategies", "--dtype", "--solver", "--forecaster", "--ray", "--plot")
    ),
    *(
        ["simulate", *REPLAY, option, ""]
        for option in ("--strategy", "--dtype", "--solver", "--forecaster", "--trace", "--model")
    ),
    ["compare", *REPLAY, "--hardware", "t4,t4"],
    ["compare", *REPLAY, "--hardware", "t4,"],
    *(["compare", *REPLAY, "--gpu-fraction", shares] for shares in ("0.25,0.250", "nan", "inf", "-0.1", "")),
    *(["simulate", *REPLAY, "--gpu-fraction", share] for share in ("nan", "inf", "2")),
    *(["simulate", *REPLAY, "--decision", seconds] for seconds in ("nan", "inf", "-1", "soon")),
    *(["compare", *REPLAY, option, "9" * 5000] for option in ("--max-tokens", "--verify", "--jobs", "--bound-windows")),
    *(["bench", "--engine-overhead", option, ""] for option in ("--models", "--hardware", "--gpu-memory", "--policy")),
    ["bench", "--engine-overhead", "--hardware", "t4,t4"],
    ["bench", "--engine-overhead", "--models", "demo,demo"],
    ["bench", "--engine-overhead", "--seed", "-1"],
    ["bench", "--engine-overhead", "--decision", "nan"],
    ["bench", "--engine-overhead", "--layers", "1000000000"],
    ["model", "build", "--out", "x", "--heal-steps", "-1"],
    ["model", "build", "--out", ""],
    ["profiles", "show", "t4", "--model", "no-such-model"],
    ["profiles", "show", "t4", "--model", "gpt-oss-20b"],
    ["profiles", "show", "gpt-oss-20b", "--model", "gpt-oss-20b"],
    ["profiles", "show", ""],
    ["profiles", "derive", "t4", "--out", ""],
    *(["profile", option, ""] for option in ("--model", "--geometry", "--dtype", "--device", "--out")),
    *(["profile", "--geometry", f"hidden={n},ffn=64"] for n in ("1", "15", "0", "999999", "9" * 5000, "x")),
    ["profile", "--geometry", "hidden=64,ffn=64,ffn=128"],
    ["profile", "--device", "rtx-4091"],
    ["profile", "--kernels", "--check"],
    ["profile", "--kernels", "--device", "cpu"],
    ["profile", "--kernels", "--out", "x.yaml"],
    ["profile", "--check", "--out", "x.yaml"],
    ["profile", "--format", "q8_0,q4_0"],
    ["profile", "--format", "q8_0", "--dtype", "bf16"],
    ["profile", "--format", "no-such-format"],
    ["profile", "--kernels", "--lossy", "--format", "hetsched.formats.q8_0:Q8_0"],
    *(["profile", "--kernels", "--format", names] for names in ("no-such-format", "", "bf16,bf16")),
    ["profile", "--kernels", "--geometry", "hidden=100,ffn=64", "--format", "hetsched.formats.q8_0:Q8_0"],
    [*SYNTH, "--out", "t.npz", "--seed", "-1"],
    *([*SYNTH, "--out", "t.npz", "--skew", skew] for skew in ("nan", "inf", "-1")),
    [*SYNTH, "--out", ""],
    [*SYNTH[:2], "--out", "t.npz", "--layers", "10000", "--experts", "32768", *SYNTH[6:]],
    ["solve", "--random", "99999999999"],
    ["run", "--model", "~nobody-of-that-name/m", "--prompt", "x"],
    ["profiles", "show", "t4", "--model", "~nobody-of-that-name/m"],
    ["trace", "record", "--model", "", "--prompts", "p", "--out", "o"],
    ["trace", "import", "x.csv", "--num-experts", "4", "--out", "o", "--model", ""],
    ["trace", "import", "x.csv", "--num-experts", "4", "--out", "o", "--columns", "layer=a,layer=b"],
    ["trace", "split", "t.npz", "--at", "nan", "--out", "a", "b"],
    ["trace", "split", "t.npz", "--at", "0.5", "--out", "a", "./a"],
    ["trace", "split", "t.npz", "--sequences", f"0:{'9' * 5000}", "--out", "a"],
]


@pytest.mark.parametrize("argv", REFUSED, ids=lambda argv: " ".join(argv)[:80])
def test_it_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """Exit code 2, one short line, nothing written."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "t.npz", layers=24, experts=32, top_k=4)
    code, out, err = call(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert len(err) < 800
    assert [path.name for path in tmp_path.iterdir()] == ["t.npz"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (types.whole(0, 9), {"0": 0, "9": 9}, ["-1", "10", "1.0", "", "1e1", "--1", "9" * 5000]),
        (types.at_least_one, {"1": 1}, ["0", "one", "-1"]),
        (types.finite_float(1, 2), {"1": 1.0, "2e0": 2.0}, ["nan", "inf", "-inf", "0.9", "2.1", "", "1e400"]),
        (types.finite_float(0, 2, low_excluded=True), {"1e-9": 1e-9}, ["0", "-0.0"]),
        (types.share, {"0.25": 0.25, "25%": 0.25, "100%": 1.0}, ["1.01", "101%", "%", "-1%", "nan%"]),
        (
            types.seconds(0, 60),
            {"20us": 2e-5, "2E-5": 2e-5, "1.5 ms": 1.5e-3, "1min": 60.0, "5": 5.0},
            ["61", "2min", "-1", "s", "5 miles", "nan", "1e999s"],
        ),
        (types.non_empty_text, {"a b": "a b"}, ["", " "]),
        (types.names_list, {"a, b": ["a", "b"]}, ["", ",", "a,", "a,a", "a,,b"]),
        (types.shares_list, {"0.1,0.5": [0.1, 0.5]}, ["0.1,0.10", "2", ""]),
    ],
)
def test_types(kind: Callable[[str], Any], good: dict[str, Any], bad: list[str]) -> None:
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


def test_python_refuses_the_same() -> None:
    """The calls behind the options, for those who use them without a command line."""
    machine, trace = gallery.machine("t4"), made(layers=24, experts=32, top_k=4)
    for scale in (0.5, math.inf, math.nan, 1e308):
        with pytest.raises(InputError, match="time scale"):
            EmulatedAccelerator(machine, time_scale=scale)
    with pytest.raises(InputError, match="heal_steps"):
        build_demo_model(Path("x"), heal_steps=-1)
    with pytest.raises(InputError, match="drop one"):
        steps_of(trace, verify=2, mode="decode")
    with pytest.raises(InputError, match="Ray"):
        compare(trace, "gpt-oss-20b", hardware=["t4"], jobs=2, ray="auto")
    with pytest.raises(InputError, match="two strategies"):
        compare(trace, "gpt-oss-20b", hardware=["t4"], strategies="cpu-only,cpu-only")
    with pytest.raises(InputError, match="seed"):
        next(trace_problems(trace, None, gpu_fraction=0.1, phase=1, tokens=1, seed=-1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="digits"):
        parse_bytes("9" * 5000)
    with pytest.raises(InputError, match="more than the whole"):
        parse_bytes("101%", 1 << 30)
    with pytest.raises(InputError, match="room for four"):
        pool_size(1 << 30, 1 << 20, 3 << 30)
    with pytest.raises(InputError, match="dtype ''"):
        gallery.model("gpt-oss-20b", "")


def test_texts_of_a_trace_are_bounded() -> None:
    """Those of a file that is read, and those that joining makes."""
    meta = trace_meta(8, 2, 3)
    assert meta_problems({**meta, "source": "x" * MAX_TEXT}, 3, 2) == []
    (problem,) = meta_problems({**meta, "source": "x" * (MAX_TEXT + 1)}, 3, 2)
    assert len(problem) < 200
    parts = [{"source": f"{i} {'x' * 1000}"} for i in range(300)]
    joined = merged_meta(parts, [1] * 300)["source"]
    assert len(joined) <= MAX_TEXT
    assert joined.startswith("0 xxx")
    assert joined.endswith(f"and {300 - joined.count('; ')} more")
