"""Speculation in a loop of your own: drafts are checked all at once, and the controller says how many.

    python examples/speculate.py [CHECKPOINT_FOLDER]

With generate() it is one line: `with handle.speculate("self"): model.generate(...)`. Here the model drafts for itself
with only those experts that are on the GPU, and every step of the loop can be seen and changed.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

import hetsched
from hetsched.demo_model import demo_model_path
from hetsched.integrations.fewer_experts import FewerExperts, fewer_experts
from hetsched.speculation.controller import Controller

NEW_TOKENS = 24
folder = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
ids = tokenizer("The sea was calm, and", return_tensors="pt").input_ids


def said(tokens: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """The likeliest next token after each of these, which come after what the cache holds."""
    logits: torch.Tensor = model(tokens, past_key_values=cache, use_cache=True).logits
    return logits.argmax(-1)


with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="50%", time_scale=1) as handle, torch.no_grad():
    stats, fewer = handle.scheduler.stats, FewerExperts(None, handle.scheduler.residency)
    controller = Controller(4, handle.scheduler.cost)
    cache = DynamicCache(config=model.config)
    cache.activate_past_recording()  # so that drafts can be taken back, from sliding windows too
    text = torch.cat([ids, said(ids, cache)[:, -1:]], dim=1)  # the prompt's step gives the first token
    end = ids.shape[1] + NEW_TOKENS
    while text.shape[1] < end:
        asked = min(controller.choose(), end - text.shape[1] - 1)
        guess, begin_s = text[:, -1:], stats.total_s
        with fewer_experts(handle, fewer):  # one token after another, on the model's own cache
            for _ in range(asked):
                guess = torch.cat([guess, said(guess[:, -1:], cache)], dim=1)
        if asked:
            cache.crop(-asked)  # what the drafts left there is not the model's own
        drafted_s, layers, active, hits = stats.total_s, stats.layers, stats.active, stats.hits
        checked = said(guess, cache)  # one step for all of them
        accepted = int((guess[0, 1:] == checked[0, :-1]).long().cumprod(0).sum())
        cache.crop(-(asked - accepted))
        text = torch.cat([text, checked[:, : accepted + 1]], dim=1)
        layers = stats.layers - layers
        controller.show(1 + asked, (stats.active - active) / layers, (stats.hits - hits) / layers)
        controller.observe(asked, accepted, stats.total_s - drafted_s, drafted_s - begin_s, asked)

record = controller.record
print(tokenizer.decode(text[0], skip_special_tokens=True))
print(f"\n{record.tokens_per_s:.1f} tokens/s (emulated), {record.acceptance:.0%} of {record.drafted} drafts accepted,")
print(f"{record.mean_k:.2f} a step, {record.go_share:.0%} of {record.steps} steps verified any")
