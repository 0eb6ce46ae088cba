"""Room: how much GPU memory the experts of an attached model have now, and when that changes.

The plan says what the cache was given. With `follow_cache` each forward pass is looked at before it begins: where the
cache of its tokens, with the prompt's own needs, outgrows what it has, experts give way, for GROWTH times the tokens at
once so that this is seldom; the first pass of a new request takes the slots back that its cache leaves.
Bytes follow from the plan's arithmetic and the tokens in the cache, on emulated machines as on real ones.
"""

from __future__ import annotations

import math
from typing import Any

from ..engine.cpu_only import CpuOnlyEngine
from ..engine.engine import Engine
from ..errors import InputError
from ..geometry import MoEGeometry
from ..machine.sizes import parse_bytes
from ..memory.plan import MemoryPlan, element_bytes, prefill_bytes
from ..tiers import Tier
from .budget import planned
from .model_shape import RestOfModel
from .phases import tokens_of_call

GROWTH = 1.25


class Room:
    """The memory of one attachment.

    `plan`: the last one made; `follow_cache`: whether slots follow what the cache takes; `resizes`: how often they did,
    or resize() was called.
    """

    def __init__(
        self,
        engine: Engine | CpuOnlyEngine,
        plan: MemoryPlan,
        tier: Tier,
        geometry: MoEGeometry,
        rest: RestOfModel,
        follow_cache: bool,
    ) -> None:
        if follow_cache and isinstance(engine, CpuOnlyEngine):
            raise InputError(
                "follow_cache gives the cache room that experts have on a GPU, "
                f"and {tier.hardware.name} has none; drop it"
            )
        self._engine = engine
        self.plan = plan
        self._copies, self._hardware = tier.slots, tier.hardware
        self._total_bytes = geometry.all_slots_bytes
        self._rest = rest if tier.precision is None else rest.with_copies(tier.slots)
        self.follow_cache = follow_cache
        self.resizes = 0

    def resize(self, gpu_memory: str | int | None, context: int | None, batch: int | None) -> None:
        """Plan anew, and have as many slots as that plan says. Raises InputError as attach() does."""
        engine = self._engine
        if isinstance(engine, CpuOnlyEngine):
            raise InputError(f"{self._hardware.name} has no GPU, so there are no slots to resize; drop resize()")
        context = self.plan.context if context is None else context
        batch = self.plan.batch if batch is None else batch
        budget = None if gpu_memory is None else parse_bytes(gpu_memory, self._total_bytes)
        plan = planned(budget, self._copies, self._hardware, self._rest, context, batch)
        engine.resize(plan.slots, fewer=gpu_memory is None)
        self.plan = plan
        self.resizes += 1

    def make_room(self, num_bytes: int, reason: str = "asked for") -> int:
        """Give back slots of at least so many bytes, or all there are; how many bytes that were."""
        return self._engine.make_room(num_bytes, reason) if isinstance(self._engine, Engine) else 0

    def follow(self, args: Any, kwargs: dict[str, Any], new_request: bool) -> None:
        """A forward pass is about to begin: slots for what its cache leaves."""
        batch, new, tokens = tokens_of_call(args, kwargs)
        if not tokens:
            return
        now = self._engine.scheduler.residency.num_slots
        short = self._slots_short(tokens, new, batch) > self.plan.slots - now
        if short or (new_request and now < self.plan.slots):
            aim = max(0, self.plan.slots - self._slots_short(math.ceil(GROWTH * tokens), new, batch))
            if (aim < now) if short else (aim > now):
                assert isinstance(self._engine, Engine)
                self._engine.resize(aim, fewer=True)
                self.resizes += 1

    def _slots_short(self, tokens: int, new: int, batch: int) -> int:
        """Of the planned slots, those in whose place the cache of so many tokens is, `new` of them in one pass."""
        plan, shape, copies = self.plan, self._rest.shape, self._copies
        cache_bytes = shape.cache_bytes(tokens, batch, element_bytes(copies))
        passing_bytes = max(0, prefill_bytes(copies, shape, new, batch) - plan.gpu.prefill)
        over_bytes = cache_bytes + passing_bytes - plan.gpu.kv_cache - max(0, plan.gpu_left_bytes)
        return -(-max(0, over_bytes) // plan.expert_bytes)
