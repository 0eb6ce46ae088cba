"""What the fault tests share: a tiny model and eager's tokens, made once."""

from __future__ import annotations

import pytest

from hetsched.bench.fault_ground import Ground

TOKENS = 12


@pytest.fixture(scope="session")
def ground() -> Ground:
    return Ground(TOKENS)
