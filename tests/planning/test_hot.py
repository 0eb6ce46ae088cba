"""Hot experts as forks of llama.cpp read them: every decoded choice once, blocks numbered as theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hetsched.cli.plan import asked_model
from hetsched.errors import InputError
from hetsched.planning.hot import check_trace, write_hot
from hetsched.planning.model import PlannedModel
from hetsched.types import Phase
from tests.replay.compare_made import EXPERTS, LAYERS, TOP_K, model_file, random_trace


@pytest.fixture
def small(tmp_path: Path) -> PlannedModel:
    """A model whose experts are in blocks 2, 3 and 5."""
    return replace(asked_model(str(model_file(tmp_path))), layers=(2, 3, 5))


def rows_of(path: Path) -> list[list[int]]:
    return [[int(part) for part in line.split(",")] for line in path.read_text().splitlines()]


def test_every_decoded_choice_is_a_line(tmp_path: Path, small: PlannedModel) -> None:
    """position,layer,experts: as llama-moe-trace writes, prompts left out."""
    trace = random_trace(tokens=10)
    phase_T = np.full(10, Phase.DECODE, np.uint8)
    phase_T[:4] = Phase.PREFILL
    trace = replace(trace, phase_T=phase_T)
    assert write_hot(tmp_path / "hot.csv", trace, small, "routing") == 6 * LAYERS
    rows = rows_of(tmp_path / "hot.csv")
    assert [row[:2] for row in rows] == [[position, layer] for position in range(6) for layer in (2, 3, 5)]
    assert [row[2:] for row in rows] == trace.experts_TLK[4:].reshape(-1, TOP_K).tolist()


def test_counts_are_those_of_the_trace(tmp_path: Path, small: PlannedModel) -> None:
    trace = random_trace()
    write_hot(tmp_path / "hot.csv", trace, small, "counts")
    heading, *lines = (tmp_path / "hot.csv").read_text().splitlines()
    assert heading == "layer,expert,count"
    rows = [tuple(map(int, line.split(","))) for line in lines]
    found = {(layer, expert): count for layer, expert, count in rows}
    demand_LE = trace.demand_LE(slice(None))
    assert found == {
        (block, expert): demand_LE[layer, expert] for layer, block in enumerate((2, 3, 5)) for expert in range(EXPERTS)
    }
    for block in (2, 3, 5):
        counts = [count for layer, _, count in rows if layer == block]
        assert counts == sorted(counts, reverse=True)


def test_a_trace_of_prompts_alone_counts_whole(tmp_path: Path, small: PlannedModel) -> None:
    trace = random_trace(tokens=7)
    trace = replace(trace, phase_T=np.full(7, Phase.PREFILL, np.uint8))
    assert write_hot(tmp_path / "hot.csv", trace, small, "routing") == 7 * LAYERS


def test_another_models_trace_is_refused() -> None:
    with pytest.raises(InputError, match="3 layers of 8 experts"):
        check_trace(random_trace(), asked_model("gpt-oss-20b"), "t.npz")
