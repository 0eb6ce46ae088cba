"""Replays frozen as counts and simulated seconds. `python -m tests.golden.replays` writes them anew: on purpose only.

Every strategy on small synthetic traces, decisions charged a constant, so that figures depend on the code alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hetsched
from hetsched import replay
from hetsched.traces.synth import SynthParams, synthesise
from hetsched.traces.trace import RoutingTrace, load_trace

FILE = Path(__file__).with_name("replays.json")
MACHINES = ("rtx-4060-laptop-8gb", "h100-pcie")
FRACTIONS = (0.1, 0.4)
FIGURES = (
    "step_s",
    "hit_rate",
    "late_share",
    "bytes_per_token",
    "wasted_bytes_per_token",
    "stall_s_per_token",
    "gpu_utilisation",
    "link_utilisation",
    "cpu_utilisation",
)
# name: (layers, experts, top_k, tokens, options of compare)
CASES: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "decode": (5, 16, 3, 120, {}),
    "decode, unfitted": (3, 32, 4, 60, {"fit_sequences": 0.0}),
    "verify": (4, 16, 3, 90, {"verify": 4}),
}


def made(case: str, folder: Path) -> RoutingTrace:
    """The trace of a case: four sequences."""
    layers, experts, top_k, tokens, _ = CASES[case]
    numbers = {"layers": layers, "experts": experts, "top_k": top_k, "tokens": tokens, "sequences": 4}
    path = folder / "trace.npz"
    synthesise(SynthParams.uniform(**numbers, skew=1.0, locality=0.3, drift=0.3), 7, path)
    return load_trace(path)


def figures(case: str, folder: Path) -> dict[str, list[float]]:
    """FIGURES of every strategy on every machine at every fraction, by "machine, fraction, strategy"."""
    layers, experts, top_k, _, options = CASES[case]
    model = hetsched.MoEGeometry("golden", layers, experts, top_k, 2048, 768, dense_params=20_000_000)
    compared = replay.compare(
        made(case, folder),
        model,
        hardware=MACHINES,
        gpu_fractions=FRACTIONS,
        decision_s=30e-6,
        bound_windows=0,
        **options,
    )
    assert not compared.failures
    rows = {f"{row.hardware}, {row.gpu_fraction}, {row.strategy}": row for row in compared.rows}
    return {name: [getattr(row, figure) for figure in FIGURES] for name, row in sorted(rows.items())}


def stored() -> dict[str, dict[str, list[float]]]:
    """What is frozen, by case."""
    found: dict[str, dict[str, list[float]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def _lines(frozen: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """One row a line, so that a change can be read in a diff."""
    for case, rows in frozen.items():
        yield (
            f"{json.dumps(case)}: {{\n"
            + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in rows.items())
            + "\n}"
        )


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        frozen = {case: figures(case, Path(place)) for case in CASES}
    FILE.write_text("{\n" + ",\n".join(_lines(frozen)) + "\n}\n", encoding="utf-8")
