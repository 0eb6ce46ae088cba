"""The GPU part of a profile, on a real GPU: figures that physics allows, and a file that loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetsched.machine import gallery
from hetsched.machine.profile_yaml import load_profile, save_profile
from hetsched.measure.profile_run import measure_profile
from hetsched.measure.request import Request

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine"),
]


def test_profile_of_this_gpu(tmp_path: Path) -> None:
    """Read rate above the link's, pinned above pageable, contention at least one, tables quiet and busy."""
    profile = measure_profile(Request(gallery.model("olmoe-1b-7b"), "cuda", quick=True))
    assert profile.gpu is not None
    assert profile.h2d is not None
    assert profile.d2h is not None
    assert profile.gpu.capacity_bytes == torch.cuda.get_device_properties(0).total_memory
    assert profile.gpu.read_bytes_per_s > profile.h2d.bytes_per_s > 1e9
    assert profile.h2d.pageable_bytes_per_s <= 1.1 * profile.h2d.bytes_per_s
    assert min(profile.cpu_slowdown, profile.h2d_slowdown) >= 1.0
    assert [table.copy_busy for table in profile.gpu.tables] == [False, True]
    save_profile(profile, tmp_path / "gpu.yaml")
    assert load_profile(tmp_path / "gpu.yaml") == profile
