"""Plot of a profile: seconds per expert over tokens on CPU and GPU, the fetch line, and where fetching pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hetsched.cost.model import CostModel
from hetsched.geometry import MoEGeometry
from hetsched.machine.profile import ExpertShape, HardwareProfile, LatencyTable
from hetsched.report.figures import check_format, save_figure
from hetsched.types import IntArray

CPU_COLOUR, GPU_COLOUR, FETCH_COLOUR = "#1b6ca8", "#2e8b57", "#c0562b"
MAX_TOKENS = 512


def crossover_tokens(cost: CostModel, max_tokens: int = 4096) -> int | None:
    """Fewest tokens for which fetching an expert and running it on the GPU takes less than running it on the CPU.

    None when it never does up to `max_tokens`, or when there is no GPU. The round trip of activations counts for the
    CPU; queues do not: it is the comparison for one expert alone.
    """
    if not cost.has_gpu:
        return None
    tokens = np.arange(1, max_tokens + 1)
    start_s = np.array([cost.cpu_start_s(int(n)) for n in tokens])
    pays = max(cost.copy_s(), cost.gpu_call_s()) + cost.gpu_s(tokens) < start_s + cost.cpu_s(tokens)
    return int(tokens[np.argmax(pays)]) if pays.any() else None


def plot_profile(profile: HardwareProfile, geometry: MoEGeometry, path: Path) -> None:
    """Draw the profile for one model's expert into a file. Raises InputError for a format that is not drawn."""
    check_format(path)
    from matplotlib.figure import Figure

    cost = CostModel(profile, geometry)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    _draw_cpu(axes, cost, profile)
    if cost.has_gpu:
        _draw_gpu(axes, cost, profile)
    axes.set(xscale="log", yscale="log", xlabel="tokens for one expert", ylabel="time of one expert (ms)")
    axes.set_xticks([2**i for i in range(10)], [str(2**i) for i in range(10)])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(f"{profile.title or profile.name}\n{_what(geometry)}", fontsize=10)
    save_figure(figure, path, dpi=150)


def _draw_cpu(axes: Any, cost: CostModel, profile: HardwareProfile) -> None:
    tokens = _tokens()
    label = f"on the CPU ({cost.sources['cpu'].value})"
    axes.plot(tokens, (cost.cpu_call_s() + cost.cpu_s(tokens)) * 1e3, color=CPU_COLOUR, label=label)
    _band(axes, profile.cpu.tables, cost, CPU_COLOUR)


def _draw_gpu(axes: Any, cost: CostModel, profile: HardwareProfile) -> None:
    assert profile.gpu is not None
    tokens = _tokens()
    gpu_ms, copy_ms, call_ms = cost.gpu_s(tokens) * 1e3, cost.copy_s() * 1e3, cost.gpu_call_s() * 1e3
    plot = axes.plot
    plot(tokens, call_ms + gpu_ms, color=GPU_COLOUR, label=f"resident on the GPU ({cost.sources['gpu'].value})")
    plot(
        tokens, max(call_ms, copy_ms) + gpu_ms, color=FETCH_COLOUR, ls="--", label=f"fetch ({copy_ms:.2g} ms), then GPU"
    )
    _band(axes, profile.gpu.tables, cost, GPU_COLOUR)
    crossover = crossover_tokens(cost)
    if crossover is not None and crossover <= MAX_TOKENS:
        label = f"fetching is faster from {crossover} tokens"
        axes.axvline(crossover, color="0.5", lw=1, ls=":", label=label)


def _band(axes: Any, tables: tuple[LatencyTable, ...], cost: CostModel, colour: str) -> None:
    """10th to 90th percentile of the table at this very shape, where calls of one expert were measured."""
    shape = ExpertShape.of(cost.geometry)
    for table in tables:
        if table.shape == shape and table.p10_s_P and not (table.copy_busy or table.marginal):
            low, high = np.array(table.p10_s_P) * 1e3, np.array(table.p90_s_P) * 1e3
            axes.fill_between(table.tokens_P, low, high, color=colour, alpha=0.2, lw=0)


def _tokens() -> IntArray:
    return np.unique(np.geomspace(1, MAX_TOKENS, 200).round().astype(int))


def _what(geometry: MoEGeometry) -> str:
    megabytes = geometry.expert_bytes / 2**20
    return f"{geometry.name}: hidden {geometry.hidden}, ffn {geometry.ffn}, {geometry.dtype}, {megabytes:.1f} MiB"
