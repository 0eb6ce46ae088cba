"""The torch side of the CUDA accelerator on a device that torch itself drives: real queues, memory of its own.

The device is a PrivateUse1 backend of threads (queue_device/queue_device.cpp): torch.Stream, torch.Event and
asynchronous copies are torch's, only what lies below them is not a GPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="building the device needs c++")


@pytest.fixture(scope="module")
def report() -> Any:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.queue_device"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if "registered at" not in line)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_laws(report: Any) -> None:
    assert set(report["laws"].values()) == {"kept"}
    assert len(report["laws"]) >= 7


@pytest.mark.parametrize("memory", ["pinned", "pageable"])
def test_copies_are_asynchronous_and_in_order_of_urgency(report: Any, memory: str) -> None:
    """An urgent copy overtakes; work waits for its copy in its stream and sees every byte; nothing is left."""
    assert report[memory] == {"fast_before_slow": True, "sum": 1 << 20, "stalled": True, "left": 0}


def test_a_model_between_two_memories_says_what_eager_says(report: Any) -> None:
    """Dense part on the device, experts fetched or computed on the host, activations brought and sent."""
    found = report["tokens"]
    assert found["identical"]
    assert found["demanded_fetches"] + found["prefetches"] > 0
    assert found["hits"] > 0
    assert min(found["gpu_s"], found["cpu_s"]) > 0


@pytest.mark.parametrize("policy", ["hetsched", "on-demand-lru"])
def test_streams_decide_by_host_nodes(report: Any, policy: str) -> None:
    """Whole tokens queued at once: every sum is right, no row's slot held another expert, every copy was served.

    Only on-demand-lru fetches so much that rows surely await their copies.
    """
    found = report["host_nodes"][policy]
    assert (found["right"], found["wrong"], found["fell_back"]) == (found["layers"], 0, 0)
    assert found["served"] == found["chosen"] > 0
    assert found["on_gpu"] > 0
    assert found["awaited"] > 0 or policy == "hetsched"


def test_slots_come_and_go_on_a_device_with_memory_of_its_own(report: Any) -> None:
    """Weights move from slot to slot there, and a pass whose attention found no memory is made again."""
    found = report["resized"]
    assert found["identical"] == [True] * 4
    assert found["held"] == [True] * 4
    assert found["faults"]["device memory short"] == 1


def test_no_thread_is_left(report: Any) -> None:
    assert report["threads"] == []
