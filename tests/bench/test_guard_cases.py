"""`hetsched bench --guard`: what it says is what was replayed, and it stays close to the best simple strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hetsched.bench import guard, guard_cases
from hetsched.bench.guard_cases import Case
from hetsched.cli import main
from hetsched.machine import gallery
from hetsched.machine.drift import TrueMachine
from tests.documents import document_of

KEYS = ["case", "best_simple", "best_simple_s", "hetsched_s", "ratio", "switches"]


def two_cases(*given: Any) -> Iterator[Case]:
    chosen = ("cpu believed 10 times slower", "link loses nine tenths midway")
    return (case for case in guard_cases.cases(*given) if case.name in chosen)


def test_the_document_and_the_target(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "cases", two_cases)
    assert main(["bench", "--guard", "--steps", "200", "--json"]) == 0
    document = document_of(capsys.readouterr().out)
    assert document["schema"] == "hetsched-guard/1"
    assert [list(row) for row in document["rows"]] == [KEYS, KEYS]
    for row in document["rows"]:
        assert row["ratio"] == pytest.approx(row["hetsched_s"] / row["best_simple_s"])
        assert row["ratio"] <= document["target"]
        assert row["best_simple"] in guard.SIMPLE
    assert main(["bench", "--guard", "--steps", "60"]) in (0, 1)
    assert "link loses nine tenths midway" in capsys.readouterr().out


def test_every_kind_of_case_is_there() -> None:
    geometry, machine = gallery.model("gpt-oss-20b"), gallery.machine("rtx-4090")
    found = {case.name: case for case in guard_cases.cases(geometry, machine, 20, 0)}
    assert len(found) == 13
    for part in ("gpu", "cpu", "link"):
        assert f"{part} believed 10 times slower" in found
        assert f"{part} believed 10 times faster" in found
    lying = found["cpu believed 10 times slower"]
    assert lying.believed.cpu.call_s == pytest.approx(10 * machine.cpu.call_s)
    assert lying.true == TrueMachine(machine)
    assert found["link loses nine tenths midway"].true.spans()[1][0] == 10
    assert {"anti-correlated", "cyclic", "uniform", "topic shifts"} <= found.keys()
    for case in found.values():
        assert case.trace.num_tokens == 20
        assert case.history.num_tokens == guard_cases.FITTED_TOKENS


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--hardware", "rtx-4090,t4"], "one machine, not 2"),
        (["--models", "gpt-oss-20b,demo"], "one model, not 2; name one with --models"),
        (["--tokens", "3"], "--tokens belongs to --model and --engine-overhead"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--guard", *options]) == 2
    assert told in capsys.readouterr().err
