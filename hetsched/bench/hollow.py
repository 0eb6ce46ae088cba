"""Models and kernels without numbers: a true geometry at no memory, and work that takes its time and computes nothing.

Shapes: E experts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from hetsched.engine import executor
from hetsched.errors import InputError
from hetsched.machine import gallery
from hetsched.packed import layout_of

VOCABULARY = 1024


def hollow_model(name: str, num_layers: int, seed: int) -> Any:
    """A gallery model's transformers architecture with true expert and attention shapes, `num_layers` of its layers.

    bf16, a small vocabulary, random weights outside the experts; the experts' memory is reserved and never touched, in
    rows as the host store keeps them. Raises InputError for a model that transformers does not know or cannot cut.
    """
    import transformers

    config = _cut(gallery.model_card(name).config, num_layers)
    try:
        made = transformers.AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"transformers cannot make {name} with {num_layers} layers: {error}; choose another"
        ) from error
    _fill(model, seed)
    return model.eval()


def tiny_model(num_layers: int, seed: int, num_experts: int = 16, top_k: int = 4) -> Any:
    """A random Qwen2-MoE of a few hundred kilobytes."""
    import transformers

    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "vocab_size": 256}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "shared_expert_intermediate_size": 64}
    experts = {"num_experts": num_experts, "num_experts_per_tok": top_k, "num_hidden_layers": num_layers}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(**sizes, **heads, **experts, **special, experts_implementation="eager")
    ).eval()


def let_go(model: Any) -> None:
    """Let the experts of a hollow model be nothing: detaching would give it whole copies of memory never touched."""
    from hetsched.integrations.expert_modules import expert_modules

    for module in expert_modules(model):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.new_empty(0)


@contextlib.contextmanager
def timing_only() -> Iterator[None]:
    """Experts' kernels return zeros: only the lane's time passes."""
    engine_code: Any = executor
    computed = engine_code.expert_ffn
    engine_code.expert_ffn = _nothing_computed
    try:
        yield
    finally:
        engine_code.expert_ffn = computed


def _nothing_computed(
    module: Any, weights: Any, hidden_TH: torch.Tensor, linear: Any = None, compute: Any = None
) -> torch.Tensor:
    return torch.zeros_like(hidden_TH)


def _cut(config: dict[str, Any], num_layers: int) -> dict[str, Any]:
    cut = {**config, "num_hidden_layers": num_layers, "vocab_size": VOCABULARY, "experts_implementation": "eager"}
    return {**cut, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _fill(model: Any, seed: int) -> None:
    """Give every parameter on meta memory, and numbers but for the experts."""
    from hetsched.integrations.expert_modules import expert_modules

    generator = torch.Generator().manual_seed(seed)
    for module in expert_modules(model):
        layout = layout_of(module)
        rows = torch.empty((module.num_experts, layout.row_bytes), dtype=torch.uint8)
        for name, stacked in layout.stacked(rows).items():
            setattr(module, name, torch.nn.Parameter(stacked, requires_grad=False))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                made = torch.empty(parameter.shape, dtype=parameter.dtype)
                made = made.fill_(1.0) if made.ndim == 1 else made.normal_(0.0, 0.02, generator=generator)
                setattr(module, name, torch.nn.Parameter(made, requires_grad=False))
    for name, module in list(model.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):  # rotary embeddings
            model.set_submodule(name, type(module)(module.config))
    model.tie_weights()
