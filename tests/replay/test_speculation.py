"""Comparisons of speculation: what is replayed for whom, at equal bytes, and the ratios of the headline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hetsched.errors import InputError
from hetsched.replay import Draft, Speculation, SpeculationComparison, compare, compare_speculation, contestants
from hetsched.replay.cell import SpeculativeRow
from hetsched.replay.contestants import contestants_of
from hetsched.replay.drafts import AUTO
from hetsched.replay.headline import counted, headline_of
from hetsched.traces.speculative import Acceptance, speculate
from hetsched.traces.split import split
from hetsched.traces.verified import drafting, text_of
from tests.cli.test_cli import call
from tests.documents import document_of
from tests.replay.compare_made import MACHINE, geometry, model_file, random_trace, trace_file

CHARGE_S = 2e-5
PLAIN = "layer-stream,layer-split"
KIND = Acceptance((0.7,), 0.25, 5)


def made(strategies: str = PLAIN, **settings: Any) -> SpeculationComparison:
    settings = {"hardware": [MACHINE], "decision_s": CHARGE_S, "drafts": (2,), **settings}
    settings = {"speculation": Speculation(KIND), "gpu_fractions": (0.25,), **settings}
    return compare_speculation(random_trace(), geometry(), strategies=strategies, **settings)


def row_of(compared: SpeculationComparison, system: str, drafts: str = "") -> SpeculativeRow:
    (row,) = [row for row in compared.rows if (row.system, row.drafts) == (system, drafts)]
    return row


def test_speculative_rows_are_replays_of_the_derived_trace() -> None:
    """As `trace speculate` and a plain comparison would have it; standard rows decode token by token."""
    compared, (history, scored) = made(), split(random_trace(), 0.5)
    verified = speculate(scored, 2, KIND)
    given: dict[str, Any] = {"hardware": [MACHINE], "decision_s": CHARGE_S, "bound_windows": 0, "fit_trace": history}
    (plain,) = compare(verified, geometry(), strategies="layer-split", **given).rows
    row, figures = row_of(compared, "llama.cpp, speculating", "2"), drafting(verified)
    assert figures is not None
    for name in ("tokens_per_s", "step_s", "hit_rate", "bytes_per_token", "gpu_bytes"):
        assert getattr(row, name) == getattr(plain, name), name
    assert (row.acceptance, row.mean_k, row.go_share) == figures
    given.pop("fit_trace")
    (alone,) = compare(random_trace(), geometry(), strategies="layer-split", **given).rows
    standard = row_of(compared, "llama.cpp")
    assert (standard.tokens_per_s, standard.go_share) == (alone.tokens_per_s, 0.0)
    assert [row.rank for row in compared.rows] == [1, 2, 3]


def test_a_draft_model_takes_bytes_and_time() -> None:
    """Its bytes come off the experts' in speculative rows alone; its seconds are added for every draft."""
    size = 3 * geometry().expert_bytes
    free, dear = (
        made(speculation=Speculation(KIND, draft), gpu_fractions=(0.5,))
        for draft in (Draft("d", size, 0.0), Draft("d", size, 0.01))
    )
    budget = int(0.5 * geometry().total_expert_bytes)
    found = [row_of(c, "llama.cpp, speculating", "2") for c in (free, dear)]
    assert [row.gpu_bytes for row in found] == [budget - size] * 2
    assert found[1].step_s - found[0].step_s == pytest.approx(0.01 * found[0].mean_k)
    assert row_of(free, "llama.cpp").gpu_bytes == budget
    assert row_of(free, "llama.cpp").tokens_per_s == row_of(dear, "llama.cpp").tokens_per_s
    with pytest.raises(InputError, match="draft d takes"):
        made(speculation=Speculation(KIND, Draft("d", budget, 0.0)))


def test_precisions_are_cells_of_their_own() -> None:
    """Half the bytes an expert: the same share of the experts, other seconds."""
    compared = made(dtypes=("bf16", "int4"))
    assert [key for key, _ in compared.cells()] == [("bf16", MACHINE, 0.25), ("int4", MACHINE, 0.25)]
    sizes = {row.dtype: row.gpu_bytes for row in compared.rows}
    assert sizes["bf16"] == pytest.approx(sizes["int4"] * 16 / 4.5, rel=1e-3)
    assert compared.facts["dtypes"] == ["bf16", "int4"]


def test_what_was_drafted_in_a_trace_is_drafted_anew() -> None:
    """Of a trace of verify steps only the text counts."""
    verified = speculate(random_trace(), 3, Acceptance((0.4,)))
    assert text_of(verified).num_tokens == 120
    again = compare_speculation(
        verified, geometry(), hardware=[MACHINE], decision_s=CHARGE_S, drafts=(2,), strategies=PLAIN,
        speculation=Speculation(KIND),
    )  # fmt: skip
    assert [replace(row) for row in again.rows] == [replace(row) for row in made().rows]


def test_who_contends(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that are installed; others by name, both ways, in no headline."""
    have = {c.policy: None for c in contestants.PAPERS if c.policy != "sp-moe"}
    monkeypatch.setattr(contestants, "installed", lambda group: have)
    chosen, notes = contestants_of("all")
    assert "sp-moe" not in {c.policy for c in chosen}
    assert notes == ["SP-MoE is left out: no sp-moe here"]
    chosen, notes = contestants_of("Layer-Stream,fiddler")
    assert [(c.system, c.speculates, c.is_baseline) for c in chosen] == [
        ("Accelerate", False, True),
        ("fiddler", False, False),
        ("fiddler, speculating", True, False),
    ]
    with pytest.raises(InputError):
        contestants_of(",")
    with pytest.raises(InputError, match="nobody"):
        made("nobody")


def row(system: str, tokens_per_s: float, drafts: str = "", gpu_fraction: float = 0.25) -> SpeculativeRow:
    """A row of which the headline reads no more than this."""
    figures = dict.fromkeys(
        ("step_s", "hit_rate", "late_share", "bytes_per_token", "wasted_bytes_per_token", "stall_s_per_token"), 0.0
    )
    return SpeculativeRow(
        "m", gpu_fraction, 0, "s", tokens_per_s=tokens_per_s, decision_s_per_token=0.0, efficiency=None,
        lossless=True, system=system, drafts=drafts, dtype="bf16", **figures,
    )  # fmt: skip


def test_the_headline_by_hand() -> None:
    """Each baseline at its best number of drafts; hetsched at its own choice, not at its best."""
    cell = [
        *[row("llama.cpp, speculating", 8, "1"), row("llama.cpp, speculating", 10, "4"), row("SP-MoE", 9, "4")],
        *[row("llama.cpp", 4), row("Accelerate", 2), row("MoE-SpAc", 16, "4"), row("hetsched, no drafts", 99)],
        *[row("hetsched", 50, "4"), row("hetsched", 20, "auto")],
    ]
    other = [row("llama.cpp", 5, gpu_fraction=0.5), row("hetsched", 20, "2", 0.5), row("hetsched", 10, "8", 0.5)]
    found = headline_of([*cell, *other], {("bf16", "m"): 60.0})
    first, second = found.cells
    assert (first.tokens_per_s, first.drafts, first.best_speculative) == (20, "auto", "llama.cpp, speculating with 4")
    ratios = (first.over_best_speculative, first.over_standard_mean, first.over_moe_spac)
    assert ratios == pytest.approx((2.0, 20 / 3, 1.25))
    assert first.roof_over_best_speculative == pytest.approx(6.0)
    assert (second.over_best_speculative, second.over_standard_mean) == (None, 4.0)
    assert found.over_best_speculative == pytest.approx(2.0)
    assert found.over_standard_mean == pytest.approx((20 / 3 * 4) ** 0.5)
    assert headline_of([], {}).over_standard_mean is None
    text = counted(cell)
    assert "fastest of llama.cpp, speculating, SP-MoE, each" in text
    assert "mean of Accelerate, llama.cpp; MoE-SpAc counts in neither" in text
    assert "fastest of none was run" in counted(other)


def test_sp_moe_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a baseline that verifies drafts, whether or not its name is installed."""
    by_class = "hetsched.policies.sp_moe:SpMoe"
    theirs = tuple(c._replace(policy=by_class) for c in contestants.PAPERS if c.policy == "sp-moe")
    monkeypatch.setattr(contestants, "PAPERS", theirs)
    monkeypatch.setattr(contestants, "installed", lambda group: {by_class: None})
    (ran,) = made("all").rows
    assert (ran.system, ran.drafts) == ("SP-MoE", "2")
    assert ran.tokens_per_s > 0


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        ("prompt-lookup", Draft()),
        ("small=8GB,0.004", Draft("small", 8_000_000_000, 0.004)),
        ("small=1GiB", Draft("small", 2**30, None)),
    ],
)
def test_drafts_are_named(text: str, draft: Draft) -> None:
    assert Draft.parsed(text) == draft


@pytest.mark.parametrize("text", ["small", "=8GB,1", "small=8GB,x", "small=8GB,-1", "small=much,1", "small=8GB,11"])
def test_drafts_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        Draft.parsed(text)


@pytest.mark.parametrize("drafts", [(), (0,), (64,), (-3,)])
def test_numbers_of_drafts_out_of_range_are_refused(drafts: tuple[int, ...]) -> None:
    assert AUTO not in drafts
    with pytest.raises(InputError, match="drafts"):
        made(drafts=drafts)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One document with the contract's fields; the tables name both kinds; Markdown and CSV."""
    fixed = ("--hardware", MACHINE, "--decision", CHARGE_S, "--strategies", PLAIN, "--drafts", "1,2")
    argv = [str(word) for word in ("--trace", trace_file(tmp_path), "--model", model_file(tmp_path), *fixed)]
    code, out, err = call(capsys, "compare", *argv, "--speculation", "--acceptance", "0.6", "--json")
    assert code == 0, err
    document = document_of(out)
    assert set(document["rows"][0]["speculation"]) == {"acceptance", "mean_k", "go_share"}
    assert {"over_best_speculative", "over_standard_mean"} <= set(document["headline"])
    ran = {(r["system"], r["drafts"]) for r in document["rows"]}
    assert ran == {("Accelerate", ""), ("llama.cpp", ""), *(("llama.cpp, speculating", k) for k in "12")}
    for form in ((), ("--markdown",), ("--csv",)):
        code, out, _ = call(capsys, "compare", *argv, "--speculation", *form)
        assert code == 0
        assert "llama.cpp, speculating" in out
        assert "Accelerate" in out
    wrong = [("--acceptance", "0.6"), ("--speculation", "--verify", "2"), ("--speculation", "--plot", str(tmp_path))]
    idle = [("--no-guard",), ("--no-recalibration",), ("--bound-windows", "3")]
    wrong += [("--speculation", *options) for options in idle]
    for more in (*wrong, ("--speculation", "--replay", "decode"), ("--speculation", "--draft", "prompt-lookup=1GB")):
        code, out, err = call(capsys, "compare", *argv, *more)
        assert (code, out, err.count("\n")) == (2, "", 1), more
