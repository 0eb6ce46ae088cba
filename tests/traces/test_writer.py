"""A growing trace: what was committed survives, what was not is cut off, and other work is not mixed in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hetsched.errors import InputError
from hetsched.traces.trace import RoutingTrace, load_trace
from hetsched.traces.writer import TraceWriter
from tests.traces.made import made, same


def append(writer: TraceWriter, trace: RoutingTrace, tokens: slice) -> None:
    """Add some tokens of a trace."""
    arrays = trace.arrays()
    writer.append(**{name: arrays[name][tokens] for name in ("experts", "sequence", "phase")})


def resumable(path: Path, **arguments: Any) -> TraceWriter:
    return TraceWriter(path, 8, (3, 2), arguments=arguments)


def test_it_goes_on_after_the_last_commit(tmp_path: Path) -> None:
    """The process dies with ten tokens committed and five not: the five are written again, once."""
    path, trace = tmp_path / "t.npz", made()
    with resumable(path, seed=1) as dying:
        append(dying, trace, slice(0, 10))
        dying.commit(progress=3)
        append(dying, trace, slice(10, 15))
    assert not path.exists()
    with resumable(path, seed=1) as writer:
        assert (writer.tokens, writer.progress) == (10, 3)
        np.testing.assert_array_equal(writer.array("sequence"), trace.sequence_T[:10])
        append(writer, trace, slice(10, 40))
        writer.finish()
    assert same(load_trace(path), trace)
    assert os.listdir(tmp_path) == ["t.npz"]


def test_other_arguments_are_refused(tmp_path: Path) -> None:
    with resumable(tmp_path / "t.npz", seed=1) as dying:
        append(dying, made(), slice(0, 10))
        dying.commit()
    with pytest.raises(InputError, match="other arguments"):
        resumable(tmp_path / "t.npz", seed=2)
    with pytest.raises(InputError, match="other arguments"):
        TraceWriter(tmp_path / "t.npz", 9, (3, 2), arguments={"seed": 1})


def test_where_nothing_was_committed_nothing_is_left(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), resumable(tmp_path / "t.npz", seed=1) as writer:
        append(writer, made(), slice(0, 10))
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


def test_without_arguments_nothing_is_left(tmp_path: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), TraceWriter(tmp_path / "t.npz", 8, (3, 2)) as writer:
        append(writer, made(), slice(0, 10))
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="no tokens"), TraceWriter(tmp_path / "t.npz", 8, (3, 2)) as writer:
        writer.finish()
    assert os.listdir(tmp_path) == []
