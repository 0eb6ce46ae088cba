"""Logs of other programs: JSONL and CSV in any order of rows, and every mistake with its line and column."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.traces.from_rows import import_rows
from hetsched.traces.rows import row_file
from hetsched.traces.trace import RoutingTrace, load_trace
from tests.traces.made import made


def rows_of(trace: RoutingTrace) -> list[dict[str, Any]]:
    """One object for each token and layer, as a logger writes them; layer numbers begin at 1, tokens at 100."""
    first_T = np.searchsorted(trace.sequence_T, trace.sequence_T)
    return [
        {
            "sequence": f"request-{trace.sequence_T[t]}",
            "token": 100 + t - int(first_T[t]),
            "layer": layer + 1,
            "experts": trace.experts_TLK[t, layer].tolist(),
        }
        for t in range(trace.num_tokens)
        for layer in range(trace.num_layers)
    ]


def jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def imported(source: Path, num_experts: int = 8, columns: str = "") -> RoutingTrace:
    out = source.with_suffix(".npz")
    import_rows(row_file(source, None, columns), num_experts, out)
    return load_trace(out)


def test_layer_after_layer_and_token_after_token(tmp_path: Path) -> None:
    """Rows of a batch come layer by layer, those of decoding token by token: the trace is the same."""
    trace = made()
    rows = rows_of(trace)
    for order in (rows, sorted(rows, key=lambda row: (row["sequence"], row["layer"], -row["token"]))):
        read = imported(jsonl(tmp_path / "log.jsonl", order))
        np.testing.assert_array_equal(read.experts_TLK, trace.experts_TLK)
        np.testing.assert_array_equal(read.sequence_T, trace.sequence_T)
        assert read.meta["layers"] == [1, 2, 3]
        assert set(read.phase_T.tolist()) == {255}
        assert read.weights_TLK is None


def test_phases_and_weights(tmp_path: Path) -> None:
    """Phases by name or number; weights as lists."""
    rows = [{**row, "phase": "prefill" if row["token"] < 103 else 1, "weights": [0.5, 0.25]} for row in rows_of(made())]
    read = imported(jsonl(tmp_path / "log.jsonl", rows))
    assert read.phase_T.tolist() == ([0] * 3 + [1] * 7) * 4
    assert read.weights_TLK is not None
    assert read.weights_TLK[3, 2].tolist() == [0.5, 0.25]


def test_csv_with_its_own_names(tmp_path: Path) -> None:
    """One column an expert, found by a pattern; or all in one cell."""
    trace = made()
    cells = [(row["sequence"], row["token"], row["layer"], *row["experts"]) for row in rows_of(trace)]
    wide = tmp_path / "wide.csv"
    wide.write_text("req,pos,l,id_0,id_1\n" + "".join(",".join(map(str, cell)) + "\n" for cell in cells))
    columns = "sequence=req,token=pos,layer=l,experts=id_*"
    np.testing.assert_array_equal(imported(wide, columns=columns).experts_TLK, trace.experts_TLK)
    plain = tmp_path / "plain.csv"
    plain.write_text("sequence,token,layer,expert_0,expert_1\n" + wide.read_text().partition("\n")[2])
    np.testing.assert_array_equal(imported(plain).experts_TLK, trace.experts_TLK)
    for form in ("{};{}", '"[{}, {}]"', "{} {}"):
        cell = tmp_path / "cell.csv"
        lines = [f"{s},{t},{layer},{form.format(a, b)}\n" for s, t, layer, a, b in cells]
        cell.write_text("sequence,token,layer,experts\n" + "".join(lines))
        np.testing.assert_array_equal(imported(cell).experts_TLK, trace.experts_TLK)


GOOD = {"token": 0, "layer": 0, "experts": [1, 2]}
BAD: list[tuple[list[Any], str]] = [
    ([], "has no rows"),
    ([GOOD, {**GOOD, "token": 1, "experts": [1, 8]}], "line 2: expert ids [1, 8], expected 0..7"),
    ([GOOD, {**GOOD, "token": 1, "experts": [1, -1]}], "line 2: expert ids [1, -1]"),
    ([GOOD, {**GOOD, "token": 1, "experts": [3, 3]}], "line 2: expert ids [3, 3] name one twice"),
    ([GOOD, {**GOOD, "token": 1, "experts": [1]}], "line 2: 1 expert ids, but line 1 has 2"),
    ([GOOD, {**GOOD, "token": 1, "experts": [1, 2.5]}], "line 2, column 'experts': 2.5 is not a whole number"),
    ([GOOD, {**GOOD, "token": 1, "experts": "1;x"}], "line 2, column 'experts': 'x' is not a whole number"),
    ([GOOD, {**GOOD, "token": "one"}], "line 2, column 'token': 'one' is not a whole number"),
    ([GOOD, {**GOOD, "token": True}], "line 2, column 'token': True is not"),
    ([GOOD, {**GOOD, "token": 1e30}], "line 2, column 'token'"),
    ([GOOD, {**GOOD, "layer": -1}], "line 2, column 'layer': -1 is negative"),
    ([GOOD, {"token": 1, "experts": [1, 2]}], "line 2, column 'layer': no value"),
    ([GOOD, GOOD], "line 2: token 0 has a row for layer 0 already; if the file holds several sequences"),
    ([GOOD, {**GOOD, "token": 2}], "token 1 has no row for layer 0"),
    ([GOOD, {**GOOD, "token": 1, "layer": 3}], "token 0 has no row for layer 3"),
    ([GOOD, {**GOOD, "token": 2_000_000_000}], "cannot be 2000000001 tokens"),
    ([GOOD, [1, 2]], "line 2: expected an object"),
    ([{"token": 0, "experts": [1, 2]}], "no column 'layer' among token, experts; name it with --columns layer=..."),
    ([{**GOOD, "phase": "warm"}], "line 1, column 'phase': 'warm' is none of prefill (0)"),
    ([{**GOOD, "weights": [0.5]}], "line 1, column 'weights': 1 weights for 2 experts"),
    ([{**GOOD, "weights": [0.5, "nan"]}], "line 1, column 'weights': 'nan' is not a number"),
    ([{**GOOD, "phase": 0}, {**GOOD, "layer": 1, "phase": 1}], "line 2: phase 1, but another layer"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_mistakes_name_line_and_column(tmp_path: Path, rows: list[Any], message: str) -> None:
    source = jsonl(tmp_path / "log.jsonl", rows)
    with pytest.raises(InputError, match=re.escape(message)):
        imported(source)
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_mistakes_of_text_files(tmp_path: Path) -> None:
    """Broken JSON, short CSV lines, columns that are not there, other encodings."""
    cases = {
        "a.jsonl": (json.dumps(GOOD) + '\n{"token": 1,\n', "line 2: not JSON"),
        "b.csv": ("token,layer,experts\n0,0,1;2\n1,0\n", "line 3: 2 values, the header has 3"),
        "c.csv": ("token,layer,experts\n0,0,\n", "line 2, column 'experts': no value"),
        "d.csv": ("", "has no rows"),
        "e.txt": ("", "--format"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=re.escape(message)):
            imported(tmp_path / name)
    (tmp_path / "f.csv").write_bytes(b"token,layer,experts\n\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        imported(tmp_path / "f.csv")
    with pytest.raises(InputError, match="absent"):
        imported(tmp_path / "absent.csv")
    good = jsonl(tmp_path / "good.jsonl", [GOOD])
    for columns, message in (("layer=l", "no column 'l'"), ("depth=l", "NAME one of layer"), ("layer", "NAME=COLUMN")):
        with pytest.raises(InputError, match=message):
            imported(good, columns=columns)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Five thousand rows: as Python objects they would take megabytes."""
    trace = made(tokens=2_500, layers=2, experts=16, top_k=8, sequences=5)
    source = jsonl(tmp_path / "log.jsonl", rows_of(trace))
    tracemalloc.start()
    try:
        import_rows(row_file(source), 16, tmp_path / "t.npz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 700_000
    np.testing.assert_array_equal(load_trace(tmp_path / "t.npz").experts_TLK, trace.experts_TLK)
