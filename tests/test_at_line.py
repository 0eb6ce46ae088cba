"""Interruptions at chosen lines come where a real Ctrl-C can."""

from __future__ import annotations

import threading

import pytest

from tests.at_line import AtLine


def test_no_lock_stays_locked() -> None:
    """At every line of a loop around a lock: it is free afterwards, and each of its lines was interrupted."""
    lock, seen = threading.Lock(), set[str]()

    def work() -> int:
        done = 0
        for _ in range(3):
            with lock:
                done += 1
        return done

    with AtLine(0, lambda frame: frame.f_code is work.__code__) as all_lines:
        assert work() == 3
    assert all_lines.lines > 9
    for line in range(1, all_lines.lines + 1):
        with AtLine(line, lambda frame: frame.f_code is work.__code__) as tracer, pytest.raises(KeyboardInterrupt):
            work()
        assert not lock.locked(), tracer.where
        seen.add(tracer.where)
    assert len(seen) == 5
