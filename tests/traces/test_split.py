"""Splitting and joining: whole sequences, nothing lost, and the meta object carried along."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.traces import split as split_module
from hetsched.traces.checks import chunks
from hetsched.traces.split import concat, merged_meta, sequence_starts, sequences, split
from hetsched.traces.trace import RoutingTrace, load_trace
from tests.traces.made import made, same

META = {"model": "m", "licence": "MIT", "sequences": [{"task": str(i)} for i in range(4)]}


def full() -> RoutingTrace:
    """Four sequences of ten tokens with weights, steps and meta.sequences."""
    weights = np.random.default_rng(1).random((40, 3, 2)).astype(np.float16)
    return made(weights_TLK=weights, step_T=(np.arange(40) // 2).astype(np.int32), meta=META)


def test_parts_joined_are_the_whole(tmp_path: Path) -> None:
    """Every share of the sequences, also in chunks of a few tokens."""
    trace = full()
    for fraction, first in ((0.1, 1), (0.25, 1), (0.5, 2), (0.99, 3)):
        parts = split(trace, fraction)
        assert [part.num_tokens for part in parts] == [10 * first, 40 - 10 * first]
        assert [len(part.meta["sequences"]) for part in parts] == [first, 4 - first]
        concat(parts, tmp_path / "t.npz")
        joined = load_trace(tmp_path / "t.npz")
        assert same(joined, trace)
        assert META.items() <= joined.meta.items()


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequence and step numbers run on over the ends of chunks."""
    trace = full()
    monkeypatch.setattr(split_module, "chunks", lambda tokens, values=1: chunks(tokens, values, 3 * values))
    assert sequence_starts(trace).tolist() == [0, 10, 20, 30, 40]
    concat([trace, trace], tmp_path / "t.npz")
    twice = load_trace(tmp_path / "t.npz")
    assert twice.sequence_T.tolist() == [*trace.sequence_T, *(trace.sequence_T + 4)]
    assert twice.step_T is not None
    assert twice.step_T.tolist() == [i // 2 for i in range(80)]


def test_sequences_are_numbered_anew(tmp_path: Path) -> None:
    """Numbers with gaps become 0, 1, 2; a part keeps the numbers of the whole until it is joined."""
    trace = replace(full(), sequence_T=np.repeat([3, 7, 8, 20], 10).astype(np.int32))
    part = sequences(trace, 1, 3)
    assert sorted(set(part.sequence_T.tolist())) == [7, 8]
    assert [entry["task"] for entry in part.meta["sequences"]] == ["1", "2"]
    concat([part, trace], tmp_path / "t.npz")
    assert load_trace(tmp_path / "t.npz").sequence_T.tolist() == np.repeat(range(6), 10).tolist()


def test_what_cannot_be_split() -> None:
    trace = full()
    for first, last in ((2, 2), (3, 5), (-1, 2)):
        with pytest.raises(InputError, match="the trace has sequences 0:4"):
            sequences(trace, first, last)
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            split(trace, fraction)
    with pytest.raises(InputError, match="one sequence"):
        split(sequences(trace, 0, 1), 0.5)


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    """Other shapes and other models; weights are dropped when one trace has none."""
    for other in (made(experts=9), made(layers=2), made(top_k=3), made(meta={"model": "n"})):
        with pytest.raises(InputError, match="trace 2 has"):
            concat([full(), other], tmp_path / "t.npz")
    concat([full(), made(meta={"repeats_allowed": True})], tmp_path / "t.npz")
    joined = load_trace(tmp_path / "t.npz")
    assert joined.weights_TLK is None
    assert joined.step_T is None
    assert joined.meta["repeats_allowed"] is True
    assert "sequences" not in joined.meta


@pytest.mark.parametrize("spelt", ["openai/gpt-oss-20b", "GPT-OSS-20B", "gpt_oss 20b", "./models/gpt-oss-20b/"])
def test_one_model_is_joined_however_it_is_spelt(spelt: str, tmp_path: Path) -> None:
    concat([made(meta={"model": "gpt-oss-20b"}), made(meta={"model": spelt})], tmp_path / "t.npz")
    assert load_trace(tmp_path / "t.npz").meta["model"] == "gpt-oss-20b"


@pytest.mark.parametrize("other", ["gpt-oss-120b", "gpt-oss-20b-base", "openai"])
def test_other_models_are_not_joined(other: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"trace 2 has meta.model '{other}'"):
        concat([made(meta={"model": "openai/gpt-oss-20b"}), made(meta={"model": other})], tmp_path / "t.npz")


def test_meta_objects_merge() -> None:
    first = {"model": "m", "source": "a", "n": 1, "sequences": [1, 2]}
    second = {"model": "m", "source": "b", "n": 2, "sequences": [3]}
    merged = merged_meta([first, second], [2, 1])
    assert (merged["model"], merged["source"], merged["n"]) == ("m", "a; b", [1, 2])
    assert merged["sequences"] == [1, 2, 3]
    assert "sequences" not in merged_meta([first, second], [2, 2])
