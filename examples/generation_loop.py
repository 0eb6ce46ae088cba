"""A generation loop of your own: no `generate`, no attach. Your code runs the experts, hetsched decides where.

    python examples/generation_loop.py [CHECKPOINT_FOLDER]

Here both devices are the CPU and the lanes' times are those the cost model predicts; in your engine they are the GPU,
the copy engine and the CPU, and `Outcome` holds what you measured.
"""

import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from hetsched import LinkState, Outcome, Phase, Scheduler, resolve_hardware
from hetsched.demo_model import demo_model_path
from hetsched.geometry import from_config

folder = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
geometry = from_config(model.config, dtype="fp32")
scheduler = Scheduler(geometry, resolve_hardware("rtx-4060-laptop-8gb"), gpu_bytes=geometry.total_expert_bytes // 4)

layer_of = {m: i for i, m in enumerate(m for m in model.modules() if hasattr(m, "is_transposed"))}
prefetched: list[Any] = []


def my_experts(module: Any, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One layer: tell the scheduler what the router asked for, run its plan, tell it what that took."""
    tokens = torch.bincount(ids.flatten(), minlength=geometry.num_experts).numpy()
    phase = Phase.DECODE if len(hidden) == 1 else Phase.PREFILL
    demand = scheduler.demand(layer_of[module], tokens, len(hidden), phase)
    plan = scheduler.step(demand, LinkState(arrived=tuple(prefetched)))
    # start plan.fetches and plan.runs here; while they work, choose copies for the idle link and start those too
    prefetched[:] = [fetch.expert for fetch in scheduler.prefetch().fetches]
    out = torch.zeros_like(hidden)
    for run in sorted(plan.runs):  # run.lane says where: Lane.GPU or Lane.CPU
        token, choice = torch.where(ids == run.expert.expert)
        gate, up = (hidden[token] @ module.gate_up_proj[run.expert.expert].T).chunk(2, dim=-1)
        expert_out = (module.act_fn(gate) * up) @ module.down_proj[run.expert.expert].T
        out.index_add_(0, token, expert_out * weights[token, choice, None])
    scheduler.observe(Outcome(plan, scheduler.cost.dense_s(len(hidden)), plan.predicted_s))
    return out


ALL_EXPERTS_FUNCTIONS.register("my_experts", my_experts)
model.set_experts_implementation("my_experts")

ids, cache = tokenizer("The sea was calm, and", return_tensors="pt").input_ids, None
text = ids
with torch.no_grad():
    for _ in range(24):
        out = model(ids, past_key_values=cache, use_cache=True)
        ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        text = torch.cat([text, ids], dim=1)

print(tokenizer.decode(text[0], skip_special_tokens=True))
print(f"\n{scheduler.stats.tokens_per_s:.0f} tokens/s predicted, hit rate {scheduler.stats.hit_rate:.0%}")
