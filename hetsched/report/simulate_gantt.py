"""A few layers of a replay drawn with characters: what each lane did when.

Copies are drawn as the link announced them, before the CPU lane slowed them down.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from hetsched.cost.model import CostModel
from hetsched.types import ExpertId, Lane, LinkState

if TYPE_CHECKING:
    from hetsched.replay.single import Moment, Report

LAYERS = 3
COLUMNS = 73


class Block(NamedTuple):
    """Something on a lane, in seconds from the start of the first layer drawn."""

    lane: str
    begin_s: float
    end_s: float
    label: str
    fill: str = "░"


def layers_drawn(report: Report) -> list[str]:
    """Lines of text: the consecutive layers of the watched step in which most is copied."""
    cost = report.scheduler.cost
    moments = _busiest(report.moments)
    blocks, marks, total_s = _blocks(moments, cost)
    scale = COLUMNS / total_s
    lanes = ("GPU", "LINK", "CPU") if cost.has_gpu else ("CPU",)
    heading = [" "] * COLUMNS
    for at_s, text in marks:
        _write(heading, round(at_s * scale), text)
    lines = ["      " + "".join(heading).rstrip()]
    lines += [f" {lane:4} " + _line([b for b in blocks if b.lane == lane], scale) for lane in lanes]
    first, last = moments[0].outcome.plan.demand.layer, moments[-1].outcome.plan.demand.layer
    legend = "▒ rest of the layer, : the engine, ? deciding, numbers: experts" + (
        ", layer.expert on the link" if cost.has_gpu else ""
    )
    return [*lines, f" layers {first} to {last} in {1e3 * total_s:.2f} ms; {legend}"]


def _busiest(moments: list[Moment]) -> list[Moment]:
    windows = [moments[i : i + LAYERS] for i in range(max(len(moments) - LAYERS + 1, 1))]
    return max(windows, key=lambda window: sum(len(m.begun.in_flight) + len(m.outcome.plan.fetches) for m in window))


def _blocks(moments: list[Moment], cost: CostModel) -> tuple[list[Block], list[tuple[float, str]], float]:
    """Blocks of all lanes, the layers' beginnings with their names, and the end."""
    blocks: list[Block] = []
    copies = _Copies(cost.copy_s() if cost.has_gpu else 0.0)
    marks, now_s = [], 0.0
    for moment in moments:
        outcome = moment.outcome
        demand = outcome.plan.demand
        marks.append((now_s, f"│layer {demand.layer}"))
        lane = "GPU" if cost.has_gpu else "CPU"
        blocks.append(Block(lane, now_s, now_s + outcome.dense_s, "", "▒"))
        now_s += outcome.dense_s
        blocks.append(Block(lane, now_s, now_s + outcome.host_s, "", ":"))
        now_s += outcome.host_s
        copies.see(now_s, moment.link)
        blocks.append(Block(lane, now_s, now_s + outcome.plan.decision_s, "", "?"))
        now_s += outcome.plan.decision_s
        copies.see(now_s, moment.begun)
        blocks += _experts(moment, now_s, copies, cost)
        now_s += outcome.makespan_s
    blocks += copies.blocks(now_s)
    return blocks, marks, now_s


def _experts(moment: Moment, from_s: float, copies: _Copies, cost: CostModel) -> Iterable[Block]:
    outcome = moment.outcome
    gpu_s, cpu_s = from_s + cost.gpu_call_s(), from_s + cost.cpu_start_s(outcome.plan.demand.num_tokens)
    for run in outcome.plan.runs:
        if run.lane is Lane.GPU:
            begin_s = max(gpu_s, copies.end_s.get(run.expert, 0.0))
            (work_s,) = cost.each_gpu_s([run.num_tokens])
            gpu_s = begin_s + work_s
            yield Block("GPU", begin_s, gpu_s, str(run.expert.expert), "█")
        else:
            (work_s,) = cost.each_cpu_s([run.num_tokens])
            cpu_s, begin_s = cpu_s + work_s, cpu_s
            yield Block("CPU", begin_s, cpu_s, str(run.expert.expert), "█")


class _Copies:
    """When each copy begins and ends, from what the link reports at one moment after another."""

    def __init__(self, copy_s: float) -> None:
        self._copy_s = copy_s
        self.end_s: dict[ExpertId, float] = {}

    def see(self, now_s: float, link: LinkState) -> None:
        for expert in link.arrived:
            self.end_s[expert] = min(self.end_s.get(expert, now_s), now_s)
        for expert, remaining_s in link.in_flight:
            self.end_s[expert] = now_s + remaining_s

    def blocks(self, until_s: float) -> list[Block]:
        made, before_s = [], 0.0
        for expert, end_s in sorted(self.end_s.items(), key=lambda item: item[1]):
            begin_s = max(before_s, end_s - self._copy_s)
            if begin_s < until_s:
                made.append(Block("LINK", begin_s, min(end_s, until_s), f"{expert.layer}.{expert.expert}", "─"))
            before_s = end_s
        return made


def _line(blocks: list[Block], scale: float) -> str:
    cells = [" "] * COLUMNS
    for block in blocks:
        begin, end = round(block.begin_s * scale), min(round(block.end_s * scale), COLUMNS)
        room = end - begin - 1  # a column stays free between neighbours
        if block.label and room >= len(block.label):
            _write(cells, begin, block.label.center(room, block.fill))
        else:
            _write(cells, begin, block.fill * max(end - begin, 1 if block.label else 0))
    return "".join(cells).rstrip()


def _write(cells: list[str], at: int, text: str) -> None:
    for i, character in enumerate(text, start=at):
        if 0 <= i < len(cells):
            cells[i] = character
