"""compare_speculation: systems that verify drafts and systems that decode token by token, at equal bytes and drafts."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bound.clairvoyant import all_resident_bound
from ..cost.model import CostModel
from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.profile import HardwareProfile
from ..scheduler import DEFAULT_SOLVER
from ..traces.trace import RoutingTrace
from .cell import Cell, CellResult, SpeculativeRow
from .contestants import Contestant, contestants_of
from .drafts import AUTO, Speculation, check_drafts, drafts_text
from .facts import facts_of
from .headline import CellKey, Headline, cell_of, counted, headline_of
from .limits import WINDOW_STEPS
from .opened import Bench
from .result import Comparison, Failure
from .strategies import ALL, refuse_unasked, refuse_unasked_forecaster
from .study import MEASURED, Study, fitted_on
from .sweep import Progress, fractions_of, outcomes_of
from .workers import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

ROOF_WINDOWS = 12


@dataclass(frozen=True)
class SpeculationComparison(Comparison):
    """Rows by precision, machine and fraction, best first; `headline`: hetsched's ratios over the others."""

    rows: list[SpeculativeRow]  # type: ignore[assignment]
    headline: Headline = field(default_factory=lambda: headline_of([], {}))

    def cells(self) -> Iterator[tuple[CellKey, list[SpeculativeRow]]]:
        """Rows of each (precision, machine, fraction), best first."""
        for key, rows in groupby(self.rows, key=cell_of):
            yield key, list(rows)

    def document(self) -> dict[str, Any]:
        """The JSON document "hetsched-compare/1", with `speculation` in each row and the `headline`."""
        rows = [_with_speculation(asdict(row)) for row in self.rows]
        return {**super().document(), "rows": rows, "headline": self.headline.as_dict()}

    def columns(self) -> list[str]:
        """Names of a row's figures."""
        return [field.name for field in fields(SpeculativeRow)]

    def table(self) -> RenderableType:
        """For a terminal, through rich."""
        from ..report.speculation_view import speculation_view

        return speculation_view(self)

    def print(self) -> None:
        """Print the table, and on standard error what failed."""
        from ..report.tables import console

        console().print(self.table())
        for failure in self.failures:
            print(f"failed: {failure}", file=sys.stderr)

    def markdown(self) -> str:
        """A Markdown table for each cell, and the headline."""
        from ..report.speculation_view import speculation_markdown

        return speculation_markdown(self)

    def plot(self, folder: str | Path) -> list[Path]:
        """There is none. Raises InputError."""
        raise InputError("a comparison of speculation has no pictures; use --json or --csv")


def compare_speculation(
    trace: str | Path | RoutingTrace,
    model: str | MoEGeometry,
    *,
    hardware: Sequence[str | HardwareProfile],
    gpu_fractions: Sequence[float] = (0.25,),
    drafts: Sequence[int] = (1, 2, 4, 8),
    speculation: Speculation | None = None,
    strategies: str = ALL,
    dtypes: Sequence[str | None] = (None,),
    config: Any = None,
    fit_sequences: float | None = None,
    fit_trace: str | Path | RoutingTrace | None = None,
    max_tokens: int | None = None,
    decision_s: float | None = MEASURED,
    host_s: float | None = 0.0,
    solver: str = DEFAULT_SOLVER,
    forecaster: Any = None,
    jobs: int = 1,
    ray: str | None = None,
    progress: Progress | None = None,
) -> SpeculationComparison:
    """Replay speculative systems with each number of `drafts` (AUTO: hetsched's own choice), standard ones without.

    All see the same guesses (traces/speculative.py) and have the same bytes; a draft model's come off the experts'.
    `dtypes`: the experts' precisions, each a comparison of its own. Other arguments as for compare. Raises InputError
    for bad ones.
    """
    check_drafts(tuple(drafts))
    chosen, left_out = contestants_of(strategies)
    refuse_unasked(solver, [contestant.strategy for contestant in chosen])
    refuse_unasked_forecaster(forecaster, [contestant.strategy for contestant in chosen])
    made: list[SpeculationComparison] = []
    for done, dtype in enumerate(dtypes):
        study = replace(
            _study(trace, model, hardware, dtype, config),
            **fitted_on(fit_sequences, fit_trace),
            max_tokens=max_tokens,
            decision_s=decision_s,
            host_s=host_s,
            solver=solver,
            forecaster=forecaster,
            bound_windows=0,
            speculation=speculation or Speculation(),
        )
        show = None if progress is None else _part(progress, done, len(dtypes))
        made.append(
            _compared(study, chosen, tuple(drafts), fractions_of(gpu_fractions), jobs=jobs, ray=ray, progress=show)
        )
    rows = [row for one in made for row in one.rows]
    notes = [counted(rows), *made[0].facts["notes"], *left_out]
    return SpeculationComparison(
        rows,
        [],
        [failure for one in made for failure in one.failures],
        {**made[0].facts, "notes": notes, "dtypes": [one.facts["dtype"] for one in made]},
        Headline.over([verdict for one in made for verdict in one.headline.cells]),
    )


def _compared(
    study: Study, chosen: Sequence[Contestant], drafts: tuple[int, ...], fractions: list[float], **how: Any
) -> SpeculationComparison:
    """The comparison of one precision. `how`: as for outcomes_of."""
    _check_room(study, fractions)
    bench, dtype = Bench(study), study.geometry.dtype
    runs = [(c, k) for c in chosen for k in (drafts if c.speculates else (0,)) if k != AUTO or c.chooses]
    pairs = [(c, Cell(m, f, c.strategy, k)) for m in study.machines for f in fractions for c, k in runs]
    outcomes = outcomes_of(bench, [cell for _, cell in pairs], **how)
    rows, failures = _rows(pairs, outcomes, dtype)
    facts: dict[str, Any] = facts_of(bench)
    facts |= {"dtype": dtype, "notes": [*facts["notes"], *_notes(study)]}
    return SpeculationComparison(
        rows,
        [],
        failures,
        facts,
        headline_of(rows, {(dtype, m.name): roof for m in study.machines if (roof := _roof(bench, m, drafts))}),
    )


def _rows(
    pairs: Sequence[tuple[Contestant, Cell]], outcomes: Sequence[Outcome], dtype: str
) -> tuple[list[SpeculativeRow], list[Failure]]:
    """Rows by machine and fraction, best first, with their ranks; and what raised."""
    rows: list[SpeculativeRow] = []
    failures = []
    for (contestant, cell), outcome in zip(pairs, outcomes, strict=True):
        drafts = drafts_text(cell.drafts) if cell.drafts else ""
        if isinstance(outcome, CellResult):
            rows.append(SpeculativeRow.of(outcome, dtype, contestant.system, drafts))
        else:
            what = f"{contestant.system}{f' with {drafts} drafts' if drafts else ''} ({dtype})"
            failures.append(Failure(cell.machine.name, cell.gpu_fraction, what, *outcome))
    ranked = []
    for _, group in groupby(rows, key=cell_of):
        ordered = sorted(group, key=lambda row: -row.tokens_per_s)
        ranked += [replace(row, rank=i) for i, row in enumerate(ordered, start=1)]
    return ranked, failures


def _roof(bench: Bench, machine: HardwareProfile, drafts: tuple[int, ...]) -> float | None:
    """Tokens/s that no strategy exceeds, with any of these numbers of drafts, or none: every expert on the GPU."""
    cost, speculation = CostModel(machine, bench.study.geometry), bench.study.speculation
    if not cost.has_gpu or speculation is None:
        return None
    host_s, token_s = bench.study.host_layer_s(machine), speculation.draft.seconds(machine)
    speeds = []
    for number in {0, *(speculation.k_max if k == AUTO else k for k in drafts)}:
        told = bench.verifying(number)
        bound = all_resident_bound(told.scored, told.steps, cost, window_steps=WINDOW_STEPS, max_windows=ROOF_WINDOWS)
        steps = bound.steps
        spent_s = float(bound.window_s.sum()) + len(steps) * bench.study.geometry.num_layers * host_s
        spent_s += token_s * float(told.steps.drafted_S[steps].sum())
        speeds.append(float(told.steps.kept_S[steps].sum()) / spent_s)
    return max(speeds)


def _check_room(study: Study, fractions: list[float]) -> None:
    """Raise InputError for a draft model that leaves no room for one expert."""
    assert study.speculation is not None
    draft = study.speculation.draft
    for fraction in fractions:
        room = study.gpu_bytes(fraction)
        if draft.gpu_bytes and draft.gpu_bytes + study.geometry.expert_bytes > room:
            raise InputError(
                f"draft {draft.name} takes {draft.gpu_bytes:,} bytes, and {fraction:.0%} of the experts are {room:,}; "
                "name a larger GPU fraction, or a smaller draft"
            )


def _notes(study: Study) -> list[str]:
    """What a reader must know of the drafts."""
    assert study.speculation is not None
    acceptance, draft = study.speculation.acceptance, study.speculation.draft
    shares = ", ".join(f"{share:g}" for share in acceptance.share_D)
    takes = "no bytes and no time" if not draft.gpu_bytes else f"{draft.gpu_bytes:,} bytes of the experts' memory"
    how = (
        f"drafts by {draft.name} ({takes}); each is right with probability {shares} if those before it were, the same "
        f"guesses for all (seed {acceptance.seed}); a wrong one is routed as a token close by, in "
        f"{acceptance.same_routing:.0%} of the layers as the real one"
    )
    return [
        how,
        "guesses are independent and wrong drafts tokens of the same text, which is kinder to long drafts than reality",
        "tokens/s counts tokens that stayed; rejected drafts cost time and bytes",
    ]


def _with_speculation(row: dict[str, Any]) -> dict[str, Any]:
    """A row's figures, those of drafting together."""
    speculation = {name: row.pop(name) for name in ("acceptance", "mean_k", "go_share")}
    return {**row, "speculation": speculation}


def _study(
    trace: str | Path | RoutingTrace,
    model: str | MoEGeometry,
    hardware: Sequence[str | HardwareProfile],
    dtype: str | None,
    config: Any,
) -> Study:
    """The usual study with the experts in one precision, whether the model is named or given."""
    if isinstance(model, str):
        return Study.of(trace, model, hardware, dtype, config)
    return Study.of(trace, model if dtype is None else model.with_dtype(dtype), hardware, config=config)


def _part(progress: Progress, done: int, of: int) -> Progress:
    """Progress of one of several comparisons."""

    def show(count: float, tasks: int) -> None:
        progress(done * tasks + count, of * tasks)

    return show
