"""What a model needs by what its experts are stored as: memory of host and GPU, and bytes read for a token."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..geometry import MAX_WIDTH, MoEGeometry, text_section, whole
from .context import ContextShape, context_shape
from .plan import element_bytes, plan_memory


class Needs(NamedTuple):
    """Bytes. `host_experts`: all experts, as the host stores them. `gpu_dense`: all other weights, in 16 bits whatever
    experts are; `gpu_kv`: the cache at `context` tokens. `token_experts`, `token_rest`: read for one token when nothing
    is shared with others: experts it is routed to; the rest but for the input embedding, of which it takes one row."""

    format: str
    expert: int
    host_experts: int
    gpu_dense: int
    gpu_kv: int
    token_experts: int
    token_rest: int
    context: int

    @property
    def gpu(self) -> int:
        """Least that a GPU has to hold."""
        return self.gpu_dense + self.gpu_kv

    @property
    def token(self) -> int:
        """All that is read for a token, its context aside."""
        return self.token_experts + self.token_rest


def needs_of(geometry: MoEGeometry, config: Any, context: int | None = None) -> Needs:
    """The needs of a model of this config; `context` None: as in a plan."""
    shape = context_shape(config)
    plan = plan_memory(geometry, shape, gpu_bytes=1, host_bytes=0, context=context)
    rest_params = (
        geometry.dense_params * geometry.num_layers + geometry.other_params - _looked_up(geometry, shape, config)
    )
    return Needs(
        format=geometry.dtype,
        expert=geometry.expert_bytes,
        host_experts=geometry.total_expert_bytes,
        gpu_dense=plan.gpu.dense,
        gpu_kv=plan.gpu.kv_cache,
        token_experts=geometry.token_expert_bytes,
        token_rest=max(rest_params, 0) * element_bytes(geometry),
        context=plan.context,
    )


def _looked_up(geometry: MoEGeometry, shape: ContextShape, config: Any) -> int:
    """Weights of an input embedding that is not the head too."""
    text = text_section(config)
    hidden = whole(text, MAX_WIDTH, "hidden_size") or geometry.hidden
    return 0 if text.get("tie_word_embeddings") else shape.vocab * hidden
