"""One layer explained: what was asked, what was there, what was expected, what else could have been done, and the cost.

Costs are those of DispatchProblem: seconds until the last lane ends, without contention between lanes, and what fetches
cost beyond the layer (the victim's worth and the link's price, less the newcomer's worth).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..board import COPYING, RESIDENT
from ..dispatch.problem import Device, DispatchProblem
from ..plugins import instance
from ..runlog import Layer, Move, RunLog
from .again import Before, before
from .posed import Posed, posed

SCHEMA = "hetsched-explain/1"
LETTERS = {Device.GPU: "g", Device.CPU: "c", Device.FETCH: "f"}
WAS = {RESIDENT: "resident", COPYING: "on its way"}
NAMES = {
    "chosen": "what was done",
    "optimum": "the optimum, by the exact solver",
    "static": "residents on the GPU, the rest on the CPU",
    "all-fetch": "every missing expert fetched",
    "all-cpu": "everything on the CPU",
}
JUDGED = "of this layer's program, as the project's judge counts it: without contention between lanes"


def explained(log: RunLog, step: int, layer: int, expert: int | None = None) -> dict[str, Any]:
    """The document "hetsched-explain/1" of a layer. Raises InputError naming the range for one that is not there."""
    place = log.place(step, layer)
    if expert is not None:
        log.check_expert(expert)
    row = log.layers[place]
    known = before(log, place)
    program = posed(row, known)
    alternatives = alternatives_of(program)
    return {
        "schema": SCHEMA,
        "kind": "layer",
        **_facts(log),
        "step": step,
        "layer": layer,
        "expert": expert,
        "phase": row.phase,
        "tokens": row.tokens,
        "begin_s": row.begin_s,
        "link_free_s": program.problem.link_free_s,
        "copy_s": _finite(float(program.problem.copy_s_N.max(initial=0.0))),
        "demand": _demand(row, known, program),
        "places": [
            {"of": victim, "price_s": float(price_s)}
            for victim, price_s in zip(program.victims, program.problem.victim_price_V, strict=True)
        ],
        "alternatives": alternatives,
        "flips": flips_of(row, program),
        "judged": JUDGED,
        "predicted_s": row.predicted_s,
        "measured_s": row.measured_s,
        "parts_s": {name: getattr(row, f"{name}_s") for name in ("dense", "host", "decide", "stall", "beside")},
        "solver": row.solver,
        "moves": [move_words(move) for move in row.moves],
        "events": [event._asdict() for event in log.events if event.step == step and event.layer in (None, layer)],
        "again": {"decided": known.decided, "agreed": known.agreed},
        "notes": _notes(log, row, known, alternatives),
    }


def alternatives_of(program: Posed) -> list[dict[str, Any]]:
    """What was done and what else could have been, with their costs, cheapest first."""
    problem = program.problem
    missing_N = np.isinf(problem.ready_s_N)
    all_fetch_N = np.where(missing_N, Device.FETCH, Device.GPU).astype(np.int8)
    if (most := len(problem.victim_price_V)) < missing_N.sum():  # as many as there are places, the most useful first
        order_N = np.argsort(-problem.utility_N[missing_N], kind="stable")
        all_fetch_N[np.nonzero(missing_N)[0][order_N[most:]]] = Device.CPU
    choices = {
        "chosen": program.chosen_N,
        "optimum": np.asarray(instance("hetsched.solvers", "exact").solve(problem).choice_N, np.int8),
        "static": problem.incumbent(),
        "all-fetch": all_fetch_N,
        "all-cpu": np.zeros(problem.size, np.int8),
    }
    rows = [{"name": name, "says": NAMES[name], **judged(problem, choice_N)} for name, choice_N in choices.items()]
    return sorted(rows, key=lambda row: (row["objective_s"] is None, row["objective_s"]))


def judged(problem: DispatchProblem, choice_N: npt.NDArray[np.int8]) -> dict[str, Any]:
    """A choice and what it comes to; None where it is not feasible."""
    found = problem.verdict(choice_N)
    lanes = "".join(LETTERS[Device(int(device))] for device in choice_N)
    costs = {"makespan_s": found.makespan_s, "prices_s": found.prices_s}
    costs["objective_s"] = found.makespan_s + found.prices_s if found.feasible else np.inf
    return {"lanes": lanes, **{name: _finite(float(value)) for name, value in costs.items()}}


def flips_of(row: Layer, program: Posed) -> list[dict[str, Any]]:
    """Each expert alone done otherwise: what that would have cost, against what was done."""
    problem, flips = program.problem, []
    chosen = judged(problem, program.chosen_N)["objective_s"]
    for place, expert in enumerate(row.experts):
        for device in Device:
            if device == program.chosen_N[place]:
                continue
            other_N = program.chosen_N.copy()
            other_N[place] = device
            found = judged(problem, other_N)
            if found["objective_s"] is not None:
                costs_s = None if chosen is None else found["objective_s"] - chosen
                flips.append({"expert": expert, "to": device.name.lower(), **found, "costs_s": costs_s})
    return flips


def move_words(move: Move) -> dict[str, Any]:
    """A move ready for JSON."""
    return {**move._asdict(), "out": None if move.out is None else list(move.out)}


def _demand(row: Layer, known: Before, program: Posed) -> list[dict[str, Any]]:
    told, problem = [], program.problem
    for place, (expert, tokens, lane) in enumerate(zip(row.experts, row.counts, row.lane, strict=True)):
        line: dict[str, Any] = {"expert": expert, "tokens": tokens, "lane": lane}
        line["was"] = "resident" if lane in "rh" else WAS.get(int(known.state_LE[row.layer, expert]), "absent")
        line["ready_s"] = _finite(float(problem.ready_s_N[place]))
        line |= {"gpu_s": float(problem.gpu_s_N[place]), "cpu_s": float(problem.cpu_s_N[place])}
        foreseen = known.foreseen
        line["utility_s"] = None if foreseen is None else float(problem.utility_N[place])
        line["forecast"] = None
        if foreseen is not None:
            next_p, step_p = (float(table[row.layer, expert]) for table in (foreseen.next_LE, foreseen.demand_LE))
            line["forecast"] = {"next": min(next_p, 1.0), "any_step": min(step_p, 1.0)}
            line["rank"] = 1 + int((foreseen.next_LE[row.layer] > foreseen.next_LE[row.layer, expert]).sum())
        else:
            line["rank"] = None
        told.append(line)
    return told


def _facts(log: RunLog) -> dict[str, Any]:
    header = log.header
    facts = {"log": log.path, "clock": header.clock, "model": header.model["name"], "hardware": header.machine["name"]}
    return {**facts, "policy": header.policy, "forecaster": header.forecaster or None}


def _notes(log: RunLog, row: Layer, known: Before, alternatives: list[dict[str, Any]]) -> list[str]:
    notes = [known.note] if known.note else []
    if known.foreseen is None:
        notes.append(f"{log.header.policy} puts no price on residency: costs are this layer's seconds alone")
    if known.agreed < known.decided:
        shares = f"{known.agreed:,} of the {known.decided:,} layers before as it did then"
        told = f"told again what the log holds, {log.header.policy} decides {shares}"
        notes.append(f"{told}: utilities and forecasts are near what they were, not the same")
    chosen = next(one for one in alternatives if one["name"] == "chosen")
    if chosen["objective_s"] is None:
        notes.append("what was done is not feasible in the program as posed here, so its costs are not known")
    if "x" in row.lane:
        notes.append("an expert failed on its way and was computed on the CPU, which no program foresees")
    return notes


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
