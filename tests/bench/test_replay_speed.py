"""`hetsched bench --replay-speed`: what it replays is what it says."""

from __future__ import annotations

import pytest

from hetsched.cli import main
from tests.documents import document_of


def test_every_strategy_on_every_model_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    models = ["--models", "gpt-oss-20b", "--hardware", "rtx-4090", "--layer-steps", "72"]
    assert main(["bench", "--replay-speed", "--json", *models, "--strategies", "static-frequency,sp-moe"]) == 0
    document = document_of(capsys.readouterr().out)
    assert document["schema"] == "hetsched-replay-speed/1"
    rows = {row["strategy"]: row for row in document["rows"]}
    assert rows.keys() == {"static-frequency", "sp-moe"}
    assert [rows["static-frequency"][key] for key in ("layers", "experts", "top_k")] == [24, 32, 4]
    assert [rows[strategy]["compiled"] for strategy in rows] == [True, False]
    for row in rows.values():
        slowest, fastest = row["spread"]
        assert 0 < slowest <= 1 <= fastest
        assert row["layer_steps_per_s"] > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--replay", "--hardware", "rtx-4090,t4"], "one machine, not 2; name one with --hardware"),
        (
            ["--replay-speed", "--tokens", "3"],
            "--tokens belongs to --model and --engine-overhead and --log-cost; drop it",
        ),
        (["--overhead", "--layer-steps", "3"], "--layer-steps belongs to --replay-speed; drop it"),
    ],
)
def test_options_of_other_benchmarks_are_refused(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options]) == 2
    assert told in capsys.readouterr().err
