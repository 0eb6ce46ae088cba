"""The engine measures itself: what is its own, what is not, and where it is counted."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import hetsched
from hetsched.accelerators.emulated.device import EmulatedAccelerator
from hetsched.engine.host_time import HostTime
from hetsched.machine.gallery import machine
from hetsched.report.run_view import stats_line
from hetsched.stats import RunStats

STEP = torch.tensor([[5]])
PAUSE_S = 0.05


def host(emulated: bool) -> tuple[HostTime, Any, SimpleNamespace]:
    """One whose thread's clock is moved by hand: `of.now_s`."""
    of, layer_time = SimpleNamespace(now_s=0.0), SimpleNamespace(apart_s=0.0)
    return HostTime(layer_time, emulated, RunStats(1), lambda: of.now_s), layer_time, of


def test_own_time_is_what_is_left() -> None:
    """Entered at 1 s; to 4 s its own but for 1 s apart; paused to 10 s; own to 12 s, then charged."""
    made, layer_time, of = host(emulated=True)
    of.now_s = 2.0
    made.resume(entered_s=1.0)
    of.now_s, layer_time.apart_s = 4.0, 1.0
    made.pause()
    of.now_s = 10.0
    made.resume()
    of.now_s = 12.0
    assert made.charged() == made.last_s == pytest.approx(2.0 + 2.0)
    of.now_s = 15.0  # what was charged for has ended, and waits have begun
    made.resume()
    of.now_s = 15.5
    made.pause()
    of.now_s = 20.0
    made.resume()
    assert made.charged() == pytest.approx(0.5)  # of the layer before
    made.charge_s = 0.25
    of.now_s = 27.0
    assert (made.charged(), made.last_s) == (0.25, pytest.approx(7.0))


def test_the_wall_contains_it() -> None:
    """Told to the statistics, and added to no time that they have already."""
    made, _, of = host(emulated=False)
    made.resume()
    of.now_s = 3.0
    assert made.charged() == 0.0
    stats = made._stats
    assert (stats.host_s, stats.host_inside_s, stats.total_s) == (3.0, 3.0, 0.0)


def attached(model: Any, **options: Any) -> Any:
    device = EmulatedAccelerator(machine("rtx-4090"), 1 << 24, time_scale=1.0)
    return hetsched.attach(model, hardware="rtx-4090", accelerator=device, policy="static-frequency", **options)


def test_emulated_time_contains_the_host(model: Any) -> None:
    """A slow piece of the engine's own Python passes on the emulated clock; asleep, its thread costs nothing."""
    took: dict[str, float] = {}
    for how in ("quick", "asleep", "slow"):
        with attached(model) as handle:
            inner = handle.engine._executor.submit

            def submit(plan: Any, work: Any, inner: Any = inner, how: str = how) -> None:
                inner(plan, work)
                until_s = time.thread_time() + PAUSE_S * (how == "slow")
                while time.thread_time() < until_s:
                    pass
                time.sleep(PAUSE_S * (how == "asleep"))

            handle.engine._executor.submit = submit
            for _ in range(3):
                model(STEP)
            stats = handle.stats()
            assert stats["host_inside_s"] == 0.0
            assert stats["host_s_per_token"] == pytest.approx(stats["host_s"] / 3)
            parts_s = stats["dense_s"] + stats["host_s"] + stats["decision_s"] + stats["makespan_s"]
            assert stats["total_s"] == pytest.approx(parts_s)
            assert handle.engine.accelerator.clock.now_s == pytest.approx(parts_s)
            assert f"host {1e6 * stats['host_s'] / stats['layers']:.0f} µs a layer" in stats_line(stats)
            took[how] = stats["host_s"] / (stats["layers"] - 1)  # the last one's is charged to the next
    assert 1e-5 < took["quick"] < PAUSE_S / 2
    assert 1e-5 < took["asleep"] < PAUSE_S / 2
    assert took["slow"] == pytest.approx(PAUSE_S, abs=PAUSE_S / 2)


def test_loading_and_attaching_are_no_layer(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens at the first call is not charged to its layer."""
    with attached(model) as handle:
        look = handle.look

        def slowly() -> None:
            until_s = time.thread_time() + PAUSE_S
            while time.thread_time() < until_s:
                pass
            look()

        handle.look = slowly
        model(STEP)
        assert handle.stats()["host_s"] < PAUSE_S


def test_a_real_machine_reports_it(model: Any) -> None:
    """Without an accelerator: within the wall's seconds, whichever thread calls."""
    with hetsched.attach(model, cpu_kernel="eager") as handle:
        aside = threading.Thread(target=model, args=(STEP,))
        aside.start()
        aside.join()
        model(STEP)
        stats = handle.stats()
    assert 0 < stats["host_s"] == stats["host_inside_s"]
    assert stats["total_s"] == pytest.approx(stats["dense_s"] + stats["decision_s"] + stats["makespan_s"])
