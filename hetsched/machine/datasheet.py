"""Datasheet: published figures of a machine, and the one rule that derives a profile from them.

The efficiencies below are what expert FFNs and copies of a few MiB reach in practice, not peaks. Where each comes from
stands in profiles/README.md. A derived profile says `datasheet`, never `measured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .profile import HardwareProfile, Link, Processor, Source

GPU_READ = 0.80  # of DRAM bandwidth: a GEMV over one expert's weights
GPU_FLOPS = 0.55  # of dense 16-bit tensor throughput with fp32 accumulation: expert-sized GEMMs
GPU_CALL_S = 15e-6  # of all experts of a layer, grouped: three launches and an activation, at about 5 µs each
GPU_EXPERT_S = 1e-6  # of each expert in them: ramp-up and tail of its tiles
CPU_READ = 0.75  # of channels x rate: STREAM-like reads with all cores
CPU_FLOPS = 0.40  # of cores x clock x lanes x 2 FMA: small GEMMs, all-core clock below boost
CPU_CALL_S = 8e-6  # waking the compute threads, once for all experts of a layer
CPU_EXPERT_S = 2e-6  # two parallel sections of threads that are awake
DENSE_CALLS = 10  # operations in the rest of a layer that take a call each: attention, norms, router, shared experts
LINK_RATE = 0.80  # of the PCIe line rate after encoding: packet headers, 4 MiB copies
LINK_LATENCY_S = 10e-6  # one asynchronous copy, submission to completion
PAGEABLE = 0.45  # of the pinned rate: the driver stages through its own buffer
UNIFIED_COPY = 0.40  # of DRAM bandwidth: a copy inside one memory reads and writes it
PINNABLE = 0.75  # of host memory: drivers and the page cache keep the rest
MEMORY_TOTAL = 0.85  # of DRAM bandwidth: CPU reads and copies together
UNIFIED_CPU_READ = 0.40  # of DRAM bandwidth where the CPU shares a GPU's wide memory and cannot fill it alone

PCIE_LANE_BYTES_PER_S = {3: 0.985e9, 4: 1.969e9, 5: 3.938e9}  # after 128b/130b encoding


@dataclass(frozen=True)
class Datasheet:
    """Published figures of one machine: a GPU, its link and a stated host.

    `gpu_tflops`: dense 16-bit tensor throughput with fp32 accumulation, no sparsity. `host_flops_per_cycle`: fp32
    operations per cycle and core (16 per 256-bit FMA unit). `pcie_lanes` 0: unified memory. `link_limit_gb_per_s`:
    where the board or its host limit the link below the slot. `sources`: where each figure was read.
    """

    gpu: str
    gpu_memory_gib: float
    gpu_bandwidth_gb_per_s: float
    gpu_tflops: float
    host: str
    host_memory_gib: float
    host_bandwidth_gb_per_s: float
    host_cores: int
    host_clock_ghz: float
    host_flops_per_cycle: int
    pcie_generation: int = 4
    pcie_lanes: int = 16
    sources: tuple[str, ...] = ()

    @property
    def unified_memory(self) -> bool:
        """Whether GPU and CPU share one memory."""
        return self.pcie_lanes == 0


def derive(sheet: Datasheet, name: str, date: str, title: str = "", tool: str = "") -> HardwareProfile:
    """The profile that the rule gives for a datasheet; rounded to three digits, every figure with its reason."""
    link, link_reason = _link(sheet)
    host_rate = sheet.host_bandwidth_gb_per_s * 1e9
    host_flops = sheet.host_cores * sheet.host_clock_ghz * 1e9 * sheet.host_flops_per_cycle
    slowdown = _slowdown(sheet, link.bytes_per_s)
    return HardwareProfile(
        name=name,
        title=title or f"{sheet.gpu}, {sheet.host}",
        gpu=Processor(
            sheet.gpu,
            int(sheet.gpu_memory_gib * 2**30),
            _round(sheet.gpu_bandwidth_gb_per_s * 1e9 * GPU_READ),
            _round(sheet.gpu_tflops * 1e12 * GPU_FLOPS),
            GPU_CALL_S,
            per_expert_s=GPU_EXPERT_S,
            dense_call_s=_round(DENSE_CALLS * GPU_CALL_S),
        ),
        cpu=Processor(
            sheet.host,
            int(sheet.host_memory_gib * 2**30),
            _round(host_rate * _cpu_share(sheet)),
            _round(host_flops * CPU_FLOPS),
            CPU_CALL_S,
            per_expert_s=CPU_EXPERT_S,
            dense_call_s=_round(DENSE_CALLS * CPU_CALL_S),
        ),
        h2d=link,
        d2h=link,
        cpu_slowdown=slowdown,
        h2d_slowdown=slowdown,
        pinnable_bytes=int(sheet.host_memory_gib * 2**30 * PINNABLE),
        unified_memory=sheet.unified_memory,
        source=Source.DATASHEET,
        date=date,
        tool=tool,
        reasons=_reasons(sheet, link_reason),
        notes=_notes(sheet),
        datasheet=sheet,
    )


def _link(sheet: Datasheet) -> tuple[Link, str]:
    if sheet.unified_memory:
        rate = _round(sheet.gpu_bandwidth_gb_per_s * 1e9 * UNIFIED_COPY)
        reason = f"{sheet.gpu_bandwidth_gb_per_s:g} GB/s x {UNIFIED_COPY} (a copy inside one memory)"
        return Link(LINK_LATENCY_S, rate, pageable_latency_s=LINK_LATENCY_S, pageable_bytes_per_s=rate), reason
    line = PCIE_LANE_BYTES_PER_S[sheet.pcie_generation] * sheet.pcie_lanes
    rate = _round(line * LINK_RATE)
    reason = f"PCIe {sheet.pcie_generation}.0 x{sheet.pcie_lanes}: {line / 1e9:.1f} GB/s x {LINK_RATE}"
    slow = _round(rate * PAGEABLE)
    return Link(LINK_LATENCY_S, rate, pageable_latency_s=2 * LINK_LATENCY_S, pageable_bytes_per_s=slow), reason


def _cpu_share(sheet: Datasheet) -> float:
    return UNIFIED_CPU_READ if sheet.unified_memory else CPU_READ


def _slowdown(sheet: Datasheet, link_bytes_per_s: float) -> float:
    """Factor on CPU experts and on copies while both read host DRAM: they share it in proportion to their demand."""
    dram = sheet.host_bandwidth_gb_per_s * 1e9
    traffic = link_bytes_per_s * (2 if sheet.unified_memory else 1)
    return _round(max(1.0, (dram * _cpu_share(sheet) + traffic) / (dram * MEMORY_TOTAL)))


def _reasons(sheet: Datasheet, link_reason: str) -> Mapping[str, str]:
    shared = f"(CPU reads + copies) / (DRAM bandwidth x {MEMORY_TOTAL}), at least 1"
    cpu_peak = f"{sheet.host_cores} cores x {sheet.host_clock_ghz:g} GHz x {sheet.host_flops_per_cycle} FLOP/cycle"
    return {
        "gpu.read_bytes_per_s": f"{sheet.gpu_bandwidth_gb_per_s:g} GB/s x {GPU_READ}",
        "gpu.flops_per_s": f"{sheet.gpu_tflops:g} TFLOP/s x {GPU_FLOPS}",
        "gpu.call_s": "three kernel launches and an activation, for all experts of a layer together",
        "gpu.per_expert_s": "ramp-up and tail of an expert's tiles in a grouped launch",
        "gpu.dense_call_s": f"{DENSE_CALLS} operations x 15 µs, not grouped",
        "cpu.read_bytes_per_s": f"{sheet.host_bandwidth_gb_per_s:g} GB/s x {_cpu_share(sheet)}",
        "cpu.flops_per_s": f"{cpu_peak} x {CPU_FLOPS}",
        "cpu.call_s": "waking the compute threads, once for all experts of a layer",
        "cpu.per_expert_s": "two parallel sections of threads that are awake",
        "cpu.dense_call_s": f"{DENSE_CALLS} operations x 8 µs",
        "h2d.bytes_per_s": link_reason,
        "d2h.bytes_per_s": link_reason,
        "contention.cpu_slowdown": shared,
        "contention.h2d_slowdown": shared,
        "pinnable_bytes": f"{sheet.host_memory_gib:g} GiB x {PINNABLE}",
    }


def _notes(sheet: Datasheet) -> tuple[str, ...]:
    notes = ["derived from published figures, not measured; run 'hetsched profile' on the machine itself"]
    if sheet.unified_memory:
        notes.append("unified memory: CPU and GPU read the same DRAM, a fetch is a copy inside it, not over PCIe")
    return tuple(notes)


def _round(value: float) -> float:
    """Three significant digits: the rule claims no more."""
    return float(f"{value:.3g}")
