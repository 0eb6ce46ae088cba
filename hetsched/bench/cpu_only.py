"""`hetsched bench --cpu-only`: without an accelerator, beside transformers' eager and grouped_mm.

Whole forward passes of one model in one process, in turns, so that a busy moment of the machine meets all three alike.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
import transformers

import hetsched
from hetsched.machine.fingerprint import cpu_name
from hetsched.report.tables import Column, Page, Sheet, console, figures

from ..report.documents import print_document
from .cpu_models import Subject, subjects

SCHEMA = "hetsched-bench-cpu/1"
PHASES = (("decode", 1), ("prefill", 64), ("prefill", 512))
PROMPT = 16  # tokens in the cache before a decode step
VOCABULARY = 128  # token ids below this, which every subject has
RIVALS = ("eager", "grouped_mm")
Progress = Callable[[float, int, str], None]
MIN_ROUNDS, MAX_ROUNDS, BLOCK_S = 3, 25, 0.05


class Row(NamedTuple):
    """One model in one phase: median seconds of a forward pass; ratios are medians of hetsched's over the rival's.

    Below 1 hetsched is faster. `range_*`: 10th and 90th percentile of a ratio over the rounds. `cpu_kernel`: what
    computed the experts.
    """

    model: str
    dtype: str
    phase: str
    tokens: int
    eager_s: float
    grouped_mm_s: float
    hetsched_s: float
    ratio_eager: float
    ratio_grouped_mm: float
    range_eager: tuple[float, float]
    range_grouped_mm: tuple[float, float]
    rounds: int
    cpu_kernel: str


def all_rows(progress: Progress) -> list[Row]:
    """Measure every model; `progress` is told how many rows are done, of how many, and what is measured."""
    transformers.utils.logging.disable_progress_bar()
    return list(measured(list(subjects()), progress=progress))


def show(rows: Sequence[Row], as_json: bool) -> int:
    """Report; always 0."""
    if as_json:
        print_document({"schema": SCHEMA, **_where(), "rows": [row._asdict() for row in rows]})
    else:
        console().print(rows_view(rows, _where()))
    return 0


def measured(
    chosen: Sequence[Subject], seconds: float = 10.0, progress: Progress = lambda done, total, doing: None
) -> Iterator[Row]:
    """One row a model and phase, about `seconds` each."""
    total = len(chosen) * len(PHASES)
    for number, subject in enumerate(chosen):
        done = number * len(PHASES)
        progress(done, total, f"{done + 1} of {total}: making {subject.name}, {subject.dtype}")
        rival, ours = subject.make(), subject.make()
        with hetsched.attach(ours, hardware="cpu") as handle, torch.no_grad():
            kernel = handle.stats()["cpu_kernel"]
            for phase, tokens in PHASES:
                doing = f"{done + 1} of {total}: {subject.name}, {subject.dtype}, {phase} {tokens}"
                progress(done, total, doing)
                passes = {name: _forward(rival, name, phase, tokens) for name in RIVALS}
                passes["hetsched"] = _forward(ours, None, phase, tokens)
                taken = _in_turns(passes, seconds, partial(_tell, progress, done, total, doing))
                yield _row(subject, phase, tokens, taken, kernel)
                done += 1
        del rival, ours, handle, passes


def _tell(progress: Progress, done: int, total: int, doing: str, part: float) -> None:
    progress(done + part, total, doing)


def _forward(model: Any, implementation: str | None, phase: str, tokens: int) -> Callable[[], None]:
    """One forward pass of a phase; a decode step starts from the same cache each time."""
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (1, max(tokens, PROMPT + 1)), generator=random)
    config = model.config

    def use() -> None:
        if implementation is not None:
            config._experts_implementation_internal = implementation

    if phase == "prefill":

        def whole() -> None:
            use()
            model(input_ids=ids, logits_to_keep=1)

        return whole
    use()
    cache = model(input_ids=ids[:, :PROMPT], use_cache=True).past_key_values

    def step() -> None:
        use()
        model(input_ids=ids[:, PROMPT:], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return step


def _in_turns(
    passes: dict[str, Callable[[], None]], seconds: float, progress: Callable[[float], None] = lambda part: None
) -> dict[str, list[float]]:
    """Seconds of a pass by round and name; the order rotates, and short passes are repeated within a round.

    `progress` is told between rounds, when nothing is timed, what part is done.
    """
    calls = {}
    for name, forward in passes.items():
        calls[name] = max(1, min(20, int(BLOCK_S / _block(forward, 1))))  # the first pass also warms up
    taken: dict[str, list[float]] = {name: [] for name in passes}
    order, start = list(passes), perf_counter()
    for number in range(MAX_ROUNDS):
        for name in order:
            taken[name].append(_block(passes[name], calls[name]))
        order = [*order[1:], order[0]]
        spent_s = perf_counter() - start
        if number + 1 >= MIN_ROUNDS and spent_s > seconds:
            break
        progress(min(0.99, max(spent_s / seconds, (number + 1) / MAX_ROUNDS)))
    return taken


def _block(forward: Callable[[], None], calls: int) -> float:
    """Seconds of the fastest of a few passes: other work on the machine only ever adds time."""
    clock = process_time if _alone() else perf_counter
    seconds = []
    for _ in range(calls):
        start = clock()
        forward()
        seconds.append(clock() - start)
    return min(seconds)


def _alone() -> bool:
    """With one thread, seconds are its CPU's: a busy machine lengthens them less than the wall clock's."""
    return torch.get_num_threads() == 1


def _row(subject: Subject, phase: str, tokens: int, taken: dict[str, list[float]], kernel: str) -> Row:
    ratios = {
        name: sorted(ours / theirs for ours, theirs in zip(taken["hetsched"], taken[name], strict=True))
        for name in RIVALS
    }
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return Row(
        subject.name,
        subject.dtype,
        phase,
        tokens,
        medians["eager"],
        medians["grouped_mm"],
        medians["hetsched"],
        statistics.median(ratios["eager"]),
        statistics.median(ratios["grouped_mm"]),
        _range(ratios["eager"]),
        _range(ratios["grouped_mm"]),
        len(taken["hetsched"]),
        kernel,
    )


def _range(ordered: Sequence[float]) -> tuple[float, float]:
    last = len(ordered) - 1
    return ordered[round(0.1 * last)], ordered[round(0.9 * last)]


def _where() -> dict[str, Any]:
    return {
        "machine": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if _alone() else "wall clock",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def rows_view(rows: Sequence[Row], where: dict[str, Any]) -> Page:
    """A table of milliseconds and ratios; spreads of the ratios where there is room."""
    spread = "10th to 90th"
    columns = [Column("pass"), *figures(*RIVALS, "hetsched")]
    for drop, name in enumerate(RIVALS, 1):
        columns += [Column(f"of\n{name}", right=True), Column(f"{spread}\nof {name}", right=True, drop=drop)]
    title = (
        f"Forward passes without an accelerator, ms: {where['machine']}, {where['threads']} threads, {where['clock']}"
    )
    table = Sheet(Column("model", prose=True), *columns, title=title)
    for row in rows:
        table.add(
            f"{row.model}, {row.dtype}",
            f"{row.phase} {row.tokens}",
            *(f"{1e3 * s:.2f}" for s in (row.eager_s, row.grouped_mm_s, row.hetsched_s)),
            *_ratio(row.ratio_eager, row.range_eager),
            *_ratio(row.ratio_grouped_mm, row.range_grouped_mm),
        )
    return Page(table, "'of': hetsched's time over the rival's, median of rounds in turns; 10th to 90th percentile")


def _ratio(median: float, spread: tuple[float, float]) -> tuple[str, str]:
    return f"{median:.2f}", f"{spread[0]:.2f} to {spread[1]:.2f}"
