"""Experts that tell two sets of prompts apart, as a table and as a JSON document, and a steering in a few words."""

from __future__ import annotations

from typing import Any, NamedTuple

from hetsched.report.tables import Page, Sheet, figures
from hetsched.steering.difference import Activations, Difference
from hetsched.steering.file import Steering

SCHEMA = "hetsched-analyse-experts/1"
CLEAR_ERRORS = 3.0  # standard errors, beyond which a difference is called clear


class Analysis(NamedTuple):
    """What `hetsched analyse experts` found: two sets of prompts, by name, and the steering towards the first."""

    names: tuple[str, str]
    a: Activations
    b: Activations
    found: Difference
    steering: Steering
    top: int


def steered_words(facts: Any) -> str:
    """A steering in a few words; "" for none. `facts`: of Steering, as statistics and traces carry them."""
    if not facts:
        return ""
    if not isinstance(facts, dict) or not {"file", "activated", "deactivated"} <= facts.keys():
        return "steered"
    return f"steered by {facts['file']} ({facts['activated']} experts on, {facts['deactivated']} off)"


def analysis_view(analysis: Analysis) -> Page:
    """The sets, the strongest differences, and how many are clear."""
    found, shape = analysis.found, analysis.steering.shape
    table = Sheet(*figures("layer", "expert", "A", "B", "A - B", "± error", "errors", "forced", drop=("errors",)))
    for layer, expert in found.ranked()[: analysis.top]:
        risk, error = found.risk_LE[layer, expert], found.error_LE[layer, expert]
        rates = [f"{rate_LE[layer, expert]:.1%}" for rate_LE in (found.rate_a_LE, found.rate_b_LE)]
        errors = f"{abs(risk) / error:.1f}" if error else ""
        cells = [f"{100 * risk:+.1f}", f"{100 * error:.1f}", errors, _forced(analysis.steering, layer, expert)]
        table.add(str(layer), str(expert), *rates, *cells)
    sets = [
        f"{letter}: {set_.prompts} prompts of {name}, {set_.tokens:,} tokens"
        for letter, name, set_ in zip("AB", analysis.names, (analysis.a, analysis.b), strict=True)
    ]
    clear = (
        f"{found.beyond(CLEAR_ERRORS)} of {found.risk_LE.size} experts differ by more than {CLEAR_ERRORS:g} standard "
        "errors, taken between prompts"
    )
    title = f"{analysis.steering.model}: {shape.layers} layers, {shape.top_k} of {shape.experts} experts"
    return Page(
        title, *sets, "", "Share of tokens that choose an expert, and the difference in points", table, "", clear
    )


def analysis_document(analysis: Analysis) -> dict[str, Any]:
    """The JSON document of `hetsched analyse experts`; matrices are [layer][expert]."""
    found, steering = analysis.found, analysis.steering
    return {
        "schema": SCHEMA,
        "model": steering.model,
        "geometry": steering.shape._asdict(),
        "routers": steering.routers,
        "sets": [
            {"file": name, "prompts": set_.prompts, "tokens": set_.tokens}
            for name, set_ in zip(analysis.names, (analysis.a, analysis.b), strict=True)
        ],
        "strongest": [
            {
                "layer": layer,
                "expert": expert,
                "rate_a": float(found.rate_a_LE[layer, expert]),
                "rate_b": float(found.rate_b_LE[layer, expert]),
                "risk_difference": float(found.risk_LE[layer, expert]),
                "standard_error": float(found.error_LE[layer, expert]),
                "forced": _forced(steering, layer, expert) or None,
            }
            for layer, expert in found.ranked()[: analysis.top]
        ],
        "clear": {"standard_errors": CLEAR_ERRORS, "experts": found.beyond(CLEAR_ERRORS), "of": found.risk_LE.size},
        "risk_difference": found.risk_LE.tolist(),
        "standard_error": found.error_LE.tolist(),
    }


def _forced(steering: Steering, layer: int, expert: int) -> str:
    forced = steering.layers.get(layer)
    if forced is None:
        return ""
    return "on" if expert in forced.activate else "off" if expert in forced.deactivate else ""
