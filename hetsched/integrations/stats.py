"""What a run with an attached model came to, as one dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..engine.host_store import pinning_stats
from .gpu_precision import precision_stats
from .places import place_of

if TYPE_CHECKING:
    from .attachment import Attachment


def stats_of(attachment: Attachment, modules: Sequence[Any], held_bytes: int) -> dict[str, Any]:
    """RunStats as a dictionary, with the machine's name and memory.

    `modules`: those that live, with `held_bytes` of experts.
    `expert_bytes_total`: what the experts take. `slot_waste_share`: of a slot, unused by the average expert, since
    all slots are as large as the largest. `slots`: what there are now, after `resizes`; `memory`: the plan they began
    with, line by line (MemoryPlan). `pageable_share` of the experts' host memory is not pinned, for the
    `pageable_reason`; `loaded`: what hetsched.load says of its work. `steered`: what is forced on and off, None for
    nothing. `modules_served` of `modules` have run here at least once; `eager_calls`: calls of expert modules made
    after attach, which transformers computes.
    """
    engine, scheduler = attachment.engine, attachment.scheduler
    places = [place for module in modules if (place := place_of(module)) is not None]
    return {
        "hardware": attachment.hardware.name,
        "accelerator": engine.accelerator.name,
        "emulated": engine.accelerator.emulated,
        "timed_as": scheduler.cost.geometry.name,
        "policy": scheduler.policy.name,
        "solver": scheduler.solver.name,
        "forecaster": getattr(scheduler.forecaster, "name", None),
        "cpu_kernel": attachment.cpu_kernel.name,
        "cpu_kernel_reason": attachment.cpu_kernel.reason,
        "dense_kernel": attachment.dense_lane.kernel.name,
        "dense_kernel_reason": attachment.dense_lane.kernel.reason,
        **precision_stats(
            attachment.tier,
            engine.store,
            steered=attachment.steering is not None,
            cpu_lossless=attachment.cpu_kernel.lossless and attachment.dense_lane.kernel.lossless,
        ),
        "steered": attachment.steering and attachment.steering.facts(),
        "gpu_expert_bytes": engine.gpu_expert_bytes,
        "expert_bytes_total": held_bytes,
        "slots": scheduler.residency.num_slots,
        "resizes": attachment.room.resizes,
        "memory": attachment.plan.as_dict(),
        **pinning_stats(engine.store, engine.accelerator),
        "loaded": attachment.loaded,
        "slot_waste_share": 1 - held_bytes / attachment.geometry.all_slots_bytes if places else 0.0,
        "modules": len(places),
        "modules_served": sum(place.calls > 0 for place in places),
        "eager_calls": attachment.eager_calls,
        **scheduler.stats.as_dict(),
    }
