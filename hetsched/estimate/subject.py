"""Subject: a model as far as speed is concerned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..geometry import MAX_WIDTH, WEIGHT_BITS, MoEGeometry, from_config, stored_bytes, text_section, whole
from ..memory.context import ContextShape, context_shape
from ..memory.plan import element_bytes
from .weights import FileWeights, file_named, sixteen_bits_beside

HEADS = ("num_attention_heads", "n_head", "n_heads")
FALLBACK_BITS = {"q4_k": 5.5, "q6_k": 8.5}  # q5_0 and q8_0, in blocks of 32 instead of 256


@dataclass(frozen=True)
class Subject:
    """A model's sizes as a file stores them. A layer means one with experts; other layers count with the dense part.

    `dense_bytes`, `dense_params`: read for every token besides experts and head, all layers together. `head_bytes`,
    `head_params`: the output matrix. `embedding_bytes`: the input embedding where it is not the head too, of which a
    token reads a row. `kv_element_bytes`: of a number in the cache.
    """

    geometry: MoEGeometry
    shape: ContextShape
    dense_bytes: int
    dense_params: int
    head_bytes: int
    head_params: int
    embedding_bytes: int = 0
    kv_element_bytes: float = 2
    file: str = ""

    @property
    def expert_bytes_L(self) -> tuple[int, ...]:
        """Bytes of an expert of each of L MoE layers."""
        return self.geometry.expert_bytes_L or (self.geometry.expert_bytes,) * self.geometry.num_layers


def subject_of(
    config: Any, name: str = "", file: str | FileWeights | None = None, kv_element_bytes: float = 2
) -> Subject:
    """The subject that a transformers config (object or config.json dictionary) and a kind of file make.

    `file` is a name in FILES, or a rule; None: experts as the config says and 16 bits for all else, as in hetsched.
    Raises InputError for a model without experts, UnknownNameError for a kind of file that is none.
    """
    published = from_config(config, name)
    weights = file_named(file) if isinstance(file, str) else file or sixteen_bits_beside(published.dtype)
    return subject_with(published, context_shape(config), config, weights, kv_element_bytes)


def subject_held(published: MoEGeometry, config: Any) -> Subject | None:
    """The subject as hetsched holds it: experts as `published` stores them, all else in the model's own numbers.

    None where the config does not say how many heads or words there are, or of which kinds its layers are.
    """
    element, stored = element_bytes(published), sixteen_bits_beside(published.dtype)
    bits = 8.0 * element
    weights = replace(stored, dense_bits=bits, router_bits=bits, head_bits=bits, embedding_bits=bits)
    try:
        shape, heads = context_shape(config), whole(text_section(config), MAX_WIDTH, *HEADS)
        return subject_with(published, shape, config, weights, element) if heads and shape.vocab else None
    except InputError:  # sizes of what the experts' own geometry does not need
        return None


def subject_with(
    published: MoEGeometry, shape: ContextShape, config: Any, weights: FileWeights, kv_element_bytes: float = 2
) -> Subject:
    """The same from a geometry that is known already; its experts are stored as `weights` says."""
    geometry = stored_as(published, weights)
    text = text_section(config)
    head_params = shape.vocab * (whole(text, MAX_WIDTH, "hidden_size") or geometry.hidden)
    tied = bool(text.get("tie_word_embeddings"))
    other_params = max(geometry.other_params - head_params * (1 if tied else 2), 0)
    router_params = geometry.num_layers * geometry.hidden * geometry.num_experts
    dense_params = geometry.num_layers * geometry.dense_params + other_params
    bits = (dense_params - router_params) * weights.dense_bits + router_params * weights.router_bits
    return Subject(
        geometry,
        shape,
        dense_bytes=int(bits / 8),
        dense_params=dense_params,
        head_bytes=int(head_params * weights.head_bits / 8),
        head_params=head_params,
        embedding_bytes=0 if tied else int(head_params * weights.embedding_bits / 8),
        kv_element_bytes=kv_element_bytes,
        file=weights.name,
    )


def stored_as(geometry: MoEGeometry, weights: FileWeights) -> MoEGeometry:
    """The geometry with each layer's experts in the format that the file gives it."""
    if not weights.experts_more:
        same = geometry.dtype == weights.experts
        return geometry if same else geometry.with_dtype(weights.experts)
    names = weights.formats_L(geometry.num_layers)
    sizes = {name: _expert_bytes(geometry, name) for name in dict.fromkeys(names)}
    dtype = max(sizes, key=lambda name: sizes[name])
    return replace(
        geometry, dtype=dtype, expert_bytes_override=None, expert_bytes_L=tuple(sizes[name] for name in names)
    )


def _expert_bytes(geometry: MoEGeometry, name: str) -> int:
    """Bytes of an expert; where rows are no whole blocks, llama.cpp takes the format's fallback for that matrix."""
    try:
        return stored_bytes(name, geometry.hidden, geometry.ffn, geometry.matrices, geometry.bias)
    except InputError:
        inner, _, outer = name.partition("/")
        bits = (geometry.matrices - 1) * WEIGHT_BITS[inner] + FALLBACK_BITS.get(
            outer or inner, WEIGHT_BITS[outer or inner]
        )
        return int((geometry.hidden * geometry.ffn * bits + 16 * geometry.bias_params) / 8)
