"""A pytest plug-in, loaded by name: models run their experts under hetsched, and outcomes go to a file as JSON.

JUDGE_OUT: that file. JUDGE_WAY: "hetsched", or "eager" for the models as they are.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

WAY = os.environ.get("JUDGE_WAY", "eager")
outcomes: dict[str, dict[str, Any]] = {}
calls = 0


def pytest_configure(config: pytest.Config) -> None:
    """Choose the experts of every model that is made from here on."""
    from transformers import PreTrainedModel

    made = PreTrainedModel.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        for part in (self.config, self.config.get_text_config()):
            part._experts_implementation_internal = WAY

    PreTrainedModel.__init__ = init
    if WAY == "hetsched":
        _under_hetsched()


def _under_hetsched() -> None:
    import hetsched
    from hetsched.engine import cpu_only, engine
    from hetsched.integrations.transformers import register

    register()
    defaults = hetsched.defaults(hardware="cpu", cpu_kernel="eager", dense_kernel="torch")
    defaults.__enter__()
    for kind in (engine.Engine, cpu_only.CpuOnlyEngine):
        kind.forward = _counted(kind.forward)


def _counted(forward: Any) -> Any:
    @functools.wraps(forward)
    def count(*args: Any, **kwargs: Any) -> Any:
        global calls
        calls += 1
        return forward(*args, **kwargs)

    return count


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The worst outcome of a test's three phases, with its last line."""
    if report.when == "call" or report.outcome != "passed":
        text = str(getattr(report, "longreprtext", "") or "")
        lines = [line for line in text.splitlines() if line.startswith("E  ")] or text.splitlines() or [""]
        outcomes[report.nodeid] = {"outcome": report.outcome, "why": lines[-1][:400].lstrip("E ")}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what there is."""
    Path(os.environ["JUDGE_OUT"]).write_text(json.dumps({"calls": calls, "outcomes": outcomes}))
