"""The example of a policy of one's own: short, and it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "write_a_policy.py"


def test_a_policy_in_under_forty_lines():
    assert len(EXAMPLE.read_text().splitlines()) < 40


def test_it_is_ranked_among_the_others():
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for name in ("fetch-later", "static-frequency", "hetsched", "bound: clairvoyant"):
        assert name in done.stdout
