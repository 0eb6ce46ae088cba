"""`hetsched evaluate` as a user calls it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from hetsched.cli import evaluate as verb
from hetsched.cli import main
from hetsched.cli.evaluate import PROTOCOLS as CHOICES
from hetsched.cli.parser import Parser
from hetsched.evaluate import PROTOCOLS, evaluate
from tests.documents import document_of
from tests.replay.compare_made import MACHINE, model_file, trace_file

ROOT = Path(__file__).parents[2]
TRACES = Path(os.environ.get("HETSCHED_TRACES", ROOT.parent / "shared" / "traces"))
PAGE = (ROOT / "docs" / "reproduced.md").read_text(encoding="utf-8")
MEASURES = ["precision", "recall", "f1_positive", "f1_macro", "accuracy", "hit_rate", "bytes_per_token", "tokens_per_s"]
MOST = {"published": "oracle", "honest": "transition", "caching-study": "transition"}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return ["--trace", str(trace_file(tmp_path)), "--model", str(model_file(tmp_path))]


def asked(files: list[str], protocol: str, *more: str) -> list[str]:
    honest = ["--decision", "0.00002", "--hardware", MACHINE] if protocol == "honest" else []
    return ["evaluate", "--protocol", protocol, *files, *honest, "--forecaster", "ewma,transition", *more]


def out_of(capfd: Any, arguments: list[str]) -> str:
    assert main(arguments) == 0
    return str(capfd.readouterr().out)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_json_is_the_contract(files: list[str], capfd: Any, protocol: str) -> None:
    """One document, with the fields that others rely on; every number is a number or null."""
    text = out_of(capfd, asked(files, protocol, "--json"))
    document = document_of(text)
    assert document["schema"] == "hetsched-evaluate/1"
    assert document["protocol"] == protocol
    for row in document["rows"]:
        assert {"forecaster", "strategy", "gpu_fraction", "ci95", *MEASURES} <= set(row)
        assert set(row["ci95"]) <= set(row)
        assert set(row) - {"strategy", "gpu_fraction", "hardware", "clairvoyant", "stand_in"} <= set(
            document["meaning"]
        )
        for name, interval in row["ci95"].items():
            assert interval is None or interval[0] <= row[name] <= interval[1]
        assert (row["tokens_per_s"] is not None) == (protocol == "honest")
    assert MOST[protocol] in {row["forecaster"] for row in document["rows"]}
    assert document["notes"]
    assert document["sequences_fitted"] == document["sequences_scored"] == 3
    assert out_of(capfd, asked(files, protocol, "--json")) == text


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_page_and_picture(files: list[str], capfd: Any, tmp_path: Path, protocol: str) -> None:
    picture = tmp_path / "drawn.png"
    page = out_of(capfd, asked(files, protocol, "--gpu-fraction", "0.25,0.5", "--plot", str(picture)))
    assert page.startswith(f"{protocol} protocol")
    assert MOST[protocol] in page
    assert "±" in page
    assert "NaN" not in page
    assert picture.stat().st_size > 10_000


def test_choices_are_the_protocols() -> None:
    assert CHOICES == PROTOCOLS


@pytest.mark.parametrize(
    ("protocol", "more", "says"),
    [
        ("nice", [], "invalid choice"),
        ("honest", [], "--hardware"),
        ("published", ["--strategies", "hetsched"], "--strategies belongs to --protocol honest"),
        ("caching-study", ["--decision", "0.1"], "--decision belongs to --protocol honest"),
        ("published", ["--forecaster", "ewmaa"], "ewma"),
        ("published", ["--forecaster", "ewma,ewma"], "named twice"),
        ("published", ["--gpu-fraction", "1.5"], "outside"),
        ("published", ["--fit-sequences", "1.5"], "outside"),
        ("published", ["--hardware", "no-such-machine"], "no-such-machine"),
        ("published", ["--plot", "picture.txt"], "picture.txt"),
    ],
)
def test_mistakes_are_one_line(files: list[str], capfd: Any, protocol: str, more: list[str], says: str) -> None:
    assert main(["evaluate", "--protocol", protocol, *files, *more]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert says in err


def test_commands_on_the_page_are_commands() -> None:
    """All three protocols are there, and every option of every line exists."""
    parser = Parser()
    verb.add_parser(parser.add_subparsers(dest="verb"))
    lines = re.findall(r"^hetsched (.+)$", PAGE, re.MULTILINE)
    asked_for = [parser.parse_args(shlex.split(line)) for line in lines]
    assert {args.protocol for args in asked_for} == set(PROTOCOLS)


@pytest.mark.parametrize(
    ("name", "model", "column"),
    [("deepseek-v2-lite.esft", "deepseek-v2-lite", 2), ("gpt-oss-20b.decode", "gpt-oss-20b", 5)],
)
def test_the_page_says_what_the_command_does(name: str, model: str, column: int) -> None:
    """Plain LRU and ewma under the published protocol, to the digit that is printed."""
    path = TRACES / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {name}.npz in {TRACES}; set HETSCHED_TRACES to the folder of recorded traces")
    none, ewma, _ = evaluate("published", path, model, forecasters=["ewma"]).rows
    for row, start in ((none, "| none, plain LRU"), (ewma, "| `ewma`")):
        cells = [cell.strip() for cell in next(ln for ln in PAGE.splitlines() if ln.startswith(start)).split("|")][1:]
        assert cells[column].split(" %")[0] == f"{100 * (row.hit_rate or 0):.1f}"
        assert cells[column + 1] == f"{(row.bytes_per_token or 0) / 2**20:,.0f}"
