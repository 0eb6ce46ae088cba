from __future__ import annotations

import pytest

from hetsched.runlog import read_run
from tests.runlog.made import simulated


@pytest.fixture(scope="session")
def log_path(tmp_path_factory):
    """The log of a simulated run of hetsched's own policy; not to be changed."""
    return simulated(tmp_path_factory.mktemp("logged"))


@pytest.fixture(scope="session")
def run_log(log_path):
    return read_run(log_path)
