"""An explanation for people: a layer's decision in sentences and two tables, or one expert's story."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from hetsched.report.tables import Column, Page, Sheet, figures, notes

CLOCK = {
    "emulated": "emulated: results really computed, times the machine's profile's",
    "simulated": "simulated: no model ran, times the machine's profile's",
    "measured": "measured on the machine itself",
}
LANES = {"g": "GPU", "f": "fetched", "c": "CPU"}
TO = {"cpu": "computed on the CPU", "gpu": "run on the GPU", "fetch": "fetched"}
DONE = {
    "r": "ran where it resides, on the GPU",
    "i": "waited for on its way, then ran on the GPU",
    "f": "fetched, then ran on the GPU",
    "c": "computed on the CPU",
    "h": "resides on the GPU, but the CPU ended sooner",
    "x": "failed elsewhere, computed on the CPU",
}


def explain_view(document: dict[str, Any]) -> RenderableType:
    """Either kind of the document "hetsched-explain/1"."""
    return _layer(document) if document["kind"] == "layer" else _story(document)


def _layer(told: dict[str, Any]) -> RenderableType:
    title = f"Step {told['step']}, layer {told['layer']} ({told['phase']}, {_count(told['tokens'], 'token')})"
    expert = told["expert"]
    parts: list[RenderableType] = [Text(title, style="bold"), Text(_where(told)), Text(), Text(_asked(told)), Text()]
    shown = [line for line in told["demand"] if expert in (None, line["expert"])]
    if expert is not None and not shown:
        parts += [Text(f"Expert {expert} was not asked for in this layer of this step.\n")]
    if shown:
        parts += [_demand(shown), Text()]
    parts += [Text(_done(told)), Text(), _alternatives(told["alternatives"]), Text()]
    parts += [Text(line) for line in _flips(told, expert)]
    parts += [Text(_took(told))]
    parts += [Text(f"Meanwhile: {event['name']}: {event['text']}") for event in told["events"]]
    return Page(*parts, *notes([f"costs are seconds {told['judged']}", *told["notes"]]))


def _where(told: dict[str, Any]) -> str:
    forecaster = f", foreseen by {told['forecaster']}" if told.get("forecaster") else ""
    decided = f"decided by {told['policy']}{forecaster}"
    return f"{told['model']} on {told['hardware']}, {decided} ({CLOCK[told['clock']]})"


def _asked(told: dict[str, Any]) -> str:
    demand = told["demand"]
    by_state = {was: sum(line["was"] == was for line in demand) for was in ("resident", "on its way", "absent")}
    states = ", ".join(f"{count} {was}" for was, count in by_state.items() if count)
    copy_s = told["copy_s"]
    link = "there is no link to the GPU" if copy_s is None else f"a copy takes {_us(copy_s)}"
    free = f", and one asked for now would begin in {_us(told['link_free_s'])}" if told["link_free_s"] else ""
    return f"The router asked for {_count(len(demand), 'expert')}: {states}. {link[0].upper()}{link[1:]}{free}."


def _demand(lines: list[dict[str, Any]]) -> Sheet:
    table = Sheet(
        *figures("expert", "tokens"),
        Column("was", drop=3),
        *figures("foreseen", "GPU", "CPU", "worth staying", drop=("foreseen", "worth staying")),
        Column("what was done", prose=True),
    )
    for line in lines:
        forecast, utility_s = line["forecast"], line["utility_s"]
        foreseen = "?" if forecast is None else f"{forecast['next']:.0%} (rank {line['rank']})"
        worth = "?" if utility_s is None else _us(utility_s)
        seconds = _us(line["gpu_s"]), _us(line["cpu_s"])
        table.add(str(line["expert"]), str(line["tokens"]), line["was"], foreseen, *seconds, worth, DONE[line["lane"]])
    return table


def _done(told: dict[str, Any]) -> str:
    rows = {row["name"]: row for row in told["alternatives"]}
    chosen, optimum = rows["chosen"]["objective_s"], rows["optimum"]["objective_s"]
    fetched = [move for move in told["moves"] if move["kind"] == "fetch"]
    copies = "; ".join(f"{move['layer']}.{move['expert']} fetched {_place(move)}" for move in fetched)
    ahead = [move for move in told["moves"] if move["kind"] == "prefetch"]
    sent = "; ".join(f"{move['layer']}.{move['expert']} {_place(move)}{_gain(move)}" for move in ahead)
    text = f"Copies demanded: {copies or 'none'}. Sent ahead while the lanes worked: {sent or 'none'}."
    if chosen is None or optimum is None:
        return text
    over_s = chosen - optimum
    verdict = "the optimum" if over_s <= 1e-9 + 1e-6 * abs(optimum) else f"{_us(over_s)} above the optimum"
    return f"{text}\nBy what was known, what was done is {verdict} of this layer's program:"


def _alternatives(rows: list[dict[str, Any]]) -> Sheet:
    table = Sheet(
        Column("alternative", prose=True),
        *figures("experts done", "+ places", "= cost"),
        Column("lanes", drop=1),
    )
    for row in rows:
        costs = [row["makespan_s"], row["prices_s"], row["objective_s"]]
        cells = ["-" if cost is None else _us(cost) for cost in costs]
        style = "bold" if row["name"] == "chosen" else ""
        table.add(row["says"], *cells, _counted(row["lanes"]), style=style)
    return table


def _flips(told: dict[str, Any], expert: int | None) -> list[str]:
    flips = [flip for flip in told["flips"] if flip["costs_s"] is not None and expert in (None, flip["expert"])]
    if not flips:
        return []
    if expert is None:
        flips = [min(flips, key=lambda flip: flip["costs_s"])]
        begin = "The nearest other choice for one expert alone"
    else:
        begin = "Alone done otherwise"
    said = []
    for flip in flips:
        costs_s = flip["costs_s"]
        change = (
            f"{_us(costs_s)} more" if costs_s > 1e-9 else f"{_us(-costs_s)} less" if costs_s < -1e-9 else "the same"
        )
        said.append(f"{begin}: expert {flip['expert']} {TO[flip['to']]}, which would have cost {change}.")
    return said


def _took(told: dict[str, Any]) -> str:
    predicted_s, measured_s = told["predicted_s"], told["measured_s"]
    off = f" ({measured_s / predicted_s - 1:+.1%})" if predicted_s else ""
    parts = told["parts_s"]
    before = f"rest of the layer {_us(parts['dense'])}, engine {_us(parts['host'])}, decision {_us(parts['decide'])}"
    stall = f"; the GPU lane waited {_us(parts['stall'])} for copies" if parts["stall"] else ""
    return f"Predicted {_us(predicted_s)}, took {_us(measured_s)} {told['clock']}{off}{stall}. Before that: {before}."


def _story(told: dict[str, Any]) -> RenderableType:
    title = f"Layer {told['layer']}, expert {told['expert']}"
    lanes, stays = told["lanes"], told["stays"]
    hits = lanes["r"] + lanes["h"]
    share = f" ({hits / told['demanded']:.0%})" if told["demanded"] else ""
    asked = f"Asked for in {told['demanded']} of {told['steps']} steps, {_count(told['tokens'], 'token')}; "
    asked += f"there already {hits} times{share}, {lanes['f']} times fetched, {lanes['i']} times on its way, "
    asked += f"{lanes['c'] + lanes['x']} times computed on the CPU."
    spent_s = told["copies"] * told["copy_s"]
    saved = f"Its hits saved {_ms(told['saved_s'])}; its copies took {_ms(spent_s)} of the link."
    parts: list[RenderableType] = [Text(title, style="bold"), Text(_where(told)), Text(), Text(f"{asked} {saved}")]
    parts += [Text(), *[Text(f"· {_stay(stay)}") for stay in stays]]
    if not stays:
        parts += [Text("It was never on the GPU.")]
    return Page(*parts, Text(), *notes([f"saved: {told['saved']}"]))


def _stay(stay: dict[str, Any]) -> str:
    at = "from the start" if stay["came"] == "start" else f"step {stay['from_step']}, layer {stay['from_layer']}"
    moved = "" if stay["slot"] is None else f", into slot {stay['slot']} {_place({'out': stay['displaced']})}"
    arrived = "" if not stay["arrived_s"] else f", there at {stay['arrived_s']:.3f} s"
    gain = _gain(stay)
    gone = "it stayed to the end of the log"
    if stay["until_step"] is not None:
        gone = f"it went in step {stay['until_step']}, layer {stay['until_layer']}: {stay['gone']}"
    hits = _count(stay["hits"], "hit") + (f" ({stay['hits_on_cpu']} on the CPU)" if stay["hits_on_cpu"] else "")
    return f"{at}: {stay['why']}{gain}{moved}{arrived}; {hits}, {_ms(stay['saved_s'])} saved; {gone}."


def _place(move: dict[str, Any]) -> str:
    out = move["out"]
    return "in a free slot" if out is None else f"in place of {out[0]}.{out[1]}"


def _gain(move: dict[str, Any]) -> str:
    gain_s = move["gain_s"]
    return "" if gain_s is None else f", {_us(gain_s)} better than whom it displaces"


def _counted(lanes: str) -> str:
    return ", ".join(f"{lanes.count(letter)} {name}" for letter, name in LANES.items() if letter in lanes)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f} µs"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.2f} ms"
