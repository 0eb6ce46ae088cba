"""MemoryPlan: every line that a model takes of the GPU and of the host, and how many experts that leaves room for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.sizes import show_bytes
from .context import MAX_TOKENS, ContextShape

USUAL_CONTEXT = 4096  # tokens, where nobody says; less where the model was made for less
RESERVE_SHARE = 0.05  # of GPU memory: the driver's context, libraries' workspaces, and what fragments
NAMES = {"dense": "dense weights", "kv_cache": "KV cache", "draft": "draft model"}  # of lines, for people
STAGING_BYTES = 2 * (4 << 20)  # pinned on the host: the two chunks through which copies from pageable memory go


@dataclass(frozen=True)
class Lines:
    """Bytes of one memory by what they are for.

    `experts`: routed ones, slots on the GPU. `dense`: all other weights. `kv_cache`: at the context and batch planned
    for. `prefill`: what the prompt's largest layer needs for a moment. `draft`: a draft model whole, its cache too.
    `staging`: buffers that copies go through. `reserve`: for the driver.
    """

    experts: int = 0
    dense: int = 0
    kv_cache: int = 0
    prefill: int = 0
    draft: int = 0
    staging: int = 0
    reserve: int = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class MemoryPlan:
    """What goes where, in bytes. `pinned_bytes`: of the host's lines, those that copies read directly.

    `gpu_bytes`, `host_bytes`: what there is; 0 for no GPU. `slots` of `experts` experts fit on the GPU, of
    `expert_bytes` each. `context`, `batch`: tokens of a sequence, and sequences, that the cache has room for. `shared`:
    GPU and host have one memory, in which both have their lines.
    """

    gpu: Lines
    host: Lines
    gpu_bytes: int
    host_bytes: int
    pinned_bytes: int
    slots: int
    experts: int
    expert_bytes: int
    context: int
    batch: int
    shared: bool = False

    @property
    def gpu_left_bytes(self) -> int:
        """GPU memory that no line takes; negative where the plan exceeds it."""
        return self.gpu_bytes - self.gpu.total - (self.host.total if self.shared else 0)

    @property
    def host_left_bytes(self) -> int:
        """Host memory that no line takes; negative where the plan exceeds it."""
        return self.host_bytes - self.host.total - (self.gpu.total if self.shared else 0)

    @property
    def fits(self) -> bool:
        """Whether neither memory is exceeded."""
        return self.gpu_left_bytes >= 0 and self.host_left_bytes >= 0

    @property
    def expert_room_bytes(self) -> int:
        """GPU memory for experts, with what would hold no whole one."""
        return self.gpu.experts + max(0, self.gpu_left_bytes)

    @property
    def expert_share(self) -> float:
        """Share of all experts that the GPU's slots hold."""
        return self.slots / self.experts

    @property
    def missing_bytes(self) -> int:
        """GPU memory that would be needed besides for all experts to be there."""
        return max(0, (self.experts - self.slots) * self.expert_bytes - self.gpu_left_bytes)

    def __str__(self) -> str:
        """One line for people: what each line takes of the memory that the weights run from, and what is left."""
        where, lines, total_bytes, left_bytes = "host", self.host, self.host_bytes, self.host_left_bytes
        if self.gpu_bytes:
            where, lines, total_bytes, left_bytes = "GPU", self.gpu, self.gpu_bytes, self.gpu_left_bytes
        shown = [f"{NAMES.get(name, name)} {show_bytes(value)}" for name, value in asdict(lines).items() if value]
        if self.shared:
            shown.append(f"the host's {show_bytes(self.host.total)} in the same memory")
        left = f"{show_bytes(left_bytes)} left" if left_bytes >= 0 else f"{show_bytes(-left_bytes)} TOO MUCH"
        sequences = "" if self.batch == 1 else f" x {self.batch}"
        planned = f"planned for {self.context:,}{sequences} tokens"
        return f"{where} {show_bytes(total_bytes)}, {planned}: {', '.join([*shown, left])}"

    def as_dict(self) -> dict[str, Any]:
        """Every line and what follows from them, ready for JSON."""
        return {
            "gpu": asdict(self.gpu),
            "host": asdict(self.host),
            "gpu_bytes": self.gpu_bytes,
            "host_bytes": self.host_bytes,
            "shared": self.shared,
            "pinned_bytes": self.pinned_bytes,
            "slots": self.slots,
            "context": self.context,
            "batch": self.batch,
            "fits": self.fits,
            "expert_share": self.expert_share,
            "gpu_left_bytes": self.gpu_left_bytes,
            "host_left_bytes": self.host_left_bytes,
            "missing_bytes": self.missing_bytes,
        }


def plan_memory(
    geometry: MoEGeometry,
    shape: ContextShape,
    *,
    gpu_bytes: int,
    host_bytes: int,
    context: int | None = None,
    batch: int = 1,
    expert_budget_bytes: int | None = None,
    dense_bytes: int | None = None,
    draft_bytes: int = 0,
    pinnable_bytes: int = 0,
    host_expert_bytes: int | None = None,
    shared: bool = False,
) -> MemoryPlan:
    """The plan of a model on a machine, from shapes and numbers alone. Without a GPU, all of it is the host's.

    `context` None: USUAL_CONTEXT, or all that the model was made for where that is less; the prompt may be that long.
    `expert_budget_bytes` of GPU memory for experts, None: what the other lines leave. `dense_bytes`: where weights were
    counted, else by the geometry. `host_expert_bytes`: where the host keeps more than the experts, or each in a row of
    its own. `shared`: GPU and host have one memory. Raises InputError for a context or batch below 1.
    """
    context = context_or_usual(context, shape)
    require_at_least_one("context", context)
    require_at_least_one("batch", batch)
    element = element_bytes(geometry)
    dense = (geometry.dense_params * geometry.num_layers + geometry.other_params) * element
    rest = {
        "dense": dense if dense_bytes is None else dense_bytes,
        "kv_cache": shape.cache_bytes(context, batch, element),
        "prefill": prefill_bytes(geometry, shape, context, batch),
        "draft": draft_bytes,
    }
    stored = geometry.total_expert_bytes if host_expert_bytes is None else host_expert_bytes
    if not gpu_bytes:
        host = Lines(experts=stored, **rest)
        return MemoryPlan(
            Lines(), host, 0, host_bytes, 0, 0, geometry.total_experts, geometry.expert_bytes, context, batch
        )
    rest_of_gpu = Lines(**rest, reserve=int(RESERVE_SHARE * gpu_bytes))
    host = Lines(experts=stored, dense=rest["dense"], staging=STAGING_BYTES)  # the dense part's copy stays there
    room = gpu_bytes - rest_of_gpu.total if expert_budget_bytes is None else expert_budget_bytes
    if shared and expert_budget_bytes is None:
        room -= host.total
    slots = geometry.slots(max(0, room))
    return MemoryPlan(
        Lines(**rest, reserve=rest_of_gpu.reserve, experts=slots * geometry.expert_bytes),
        host,
        gpu_bytes,
        host_bytes,
        min(pinnable_bytes, stored) + STAGING_BYTES,
        slots,
        geometry.total_experts,
        geometry.expert_bytes,
        context,
        batch,
        shared,
    )


def context_or_usual(context: int | None, shape: ContextShape) -> int:
    """Tokens to have room for: those asked for, else the usual number, or all that the model was made for."""
    return min(USUAL_CONTEXT, shape.longest or USUAL_CONTEXT) if context is None else context


def element_bytes(geometry: MoEGeometry) -> int:
    """Bytes of one number of the dense part, the activations and the cache: 4 in fp32, else 2, whatever experts are."""
    return 4 if geometry.dtype == "fp32" else 2


def prefill_bytes(geometry: MoEGeometry, shape: ContextShape, tokens: int, batch: int = 1) -> int:
    """What a prompt of so many tokens needs at once in one layer, all sequences together.

    For each token: the residual, its norm, the block's output and its sum with the residual; queries and the
    attention's output (whose scores a fused kernel never stores); each active expert's part; and, at worst all of them
    in one expert, its up, gate and product. Then the last token's logits, in the model's numbers and in fp32.
    """
    element = element_bytes(geometry)
    per_token = (4 + geometry.top_k) * geometry.hidden + 2 * shape.query + geometry.matrices * geometry.ffn
    return batch * (tokens * per_token * element + shape.vocab * (element + 4))


def require_at_least_one(name: str, value: Any) -> None:
    """Raise InputError for what is no whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOKENS:
        raise InputError(f"{name} is {value!r:.40}; it must be a whole number from 1 to {MAX_TOKENS}")
