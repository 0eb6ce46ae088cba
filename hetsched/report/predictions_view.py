"""What was predicted beside what was measured, class by class, and how the profile's seconds are corrected."""

from __future__ import annotations

from typing import Any

from hetsched.report.tables import Column, Sheet

WORDS = {
    "gpu": "experts on the GPU",
    "cpu": "experts on the CPU",
    "copy": "copies",
    "dense": "rest of the layers",
    "layers": "layers as planned",
    "decision": "decisions",
    "host": "the engine itself",
}


def predictions_table(predictions: dict[str, Any], tokens: int) -> Sheet:
    """A row a class: ms a token predicted and measured, their ratio, a step's mean error, the factor now."""
    right = [Column(name, right=True, drop=drop) for name, drop in (("predicted", 2), ("measured", 2))]
    figures = [
        Column("ratio", right=True),
        Column("error of a step", right=True, drop=1),
        Column("corrected", right=True),
    ]
    table = Sheet("", *right, *figures)
    per_token = 1e3 / max(tokens, 1)
    for name, found in predictions.items():
        error = "" if found["step_error"] is None else f"{found['step_error']:.0%}"
        factor = f"x {found['factor']:.2f}" if "factor" in found else ""
        seconds = [f"{per_token * found[key]:.2f} ms" for key in ("predicted_s", "measured_s")]
        table.add(WORDS[name], *seconds, f"{found['ratio']:.2f}", error, factor)
    return table


def predictions_line(predictions: dict[str, Any]) -> str:
    """Measured over predicted seconds of what a profile foresees, and by what it is corrected now, in a line."""
    parts = []
    for name, found in predictions.items():
        if "factor" in found:
            by = f" (corrected x {found['factor']:.2f})" if found["factor"] != 1.0 else ""
            parts.append(f"{WORDS[name]} {found['ratio']:.2f}{by}")
    return f"measured over predicted seconds: {', '.join(parts)}" if parts else ""
