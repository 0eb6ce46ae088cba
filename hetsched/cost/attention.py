"""Seconds of attention over the context: what a step reads of the cache, and its products with all that was kept.

For each layer by its own kind: n tokens after c others attend to c + (i + 1) of those kept, at most to the window, and
take 2 products of the queries' width with each. The cache is read once for a step of one sequence, since a fused kernel
(FlashAttention, arXiv 2205.14135) keeps a tile of it while all queries of the step go by. A state that does not grow is
read and written for every step. Latent attention counts like full attention of the same query width.
"""

from __future__ import annotations

from ..machine.profile import Processor
from ..memory.context import ContextShape, LayerCache


def attention_s(
    device: Processor, shape: ContextShape, tokens: int, context: int, element_bytes: float = 2, batch: int = 1
) -> float:
    """Seconds of all layers for a step of `tokens` tokens in each of `batch` sequences of `context` tokens before it.

    The larger of bytes over read rate and FLOPs over throughput, layer by layer. 0 for a model without a cache.
    """
    layers = {layer: shape.layers.count(layer) for layer in dict.fromkeys(shape.layers)}
    return sum(
        count * batch * _layer_s(device, layer, shape.query, tokens, context, element_bytes)
        for layer, count in layers.items()
    )


def attended(layer: LayerCache, tokens: int, context: int) -> float:
    """Pairs of a query and a key in a step: of each token with those before it and itself, inside the window."""
    if not layer.per_token:
        return 0.0
    inside = tokens if layer.window is None else min(max(layer.window - context, 0), tokens)
    growing = inside * context + inside * (inside + 1) / 2
    return growing + (tokens - inside) * (layer.window or 0)


def _layer_s(
    device: Processor, layer: LayerCache, query: int, tokens: int, context: int, element_bytes: float
) -> float:
    kept = layer.elements(context + tokens) - layer.fixed
    num_bytes = element_bytes * (kept + 2 * layer.fixed)
    flops = 4.0 * query * attended(layer, tokens, context)
    return max(num_bytes / device.read_bytes_per_s, flops / device.flops_per_s)
