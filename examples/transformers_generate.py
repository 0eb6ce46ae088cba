"""Attach hetsched to a transformers model, then generate as always.

    python examples/transformers_generate.py [CHECKPOINT_FOLDER]

Without a folder it takes the demo model, which is built once. The GPU is emulated: no GPU is needed.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import hetsched
from hetsched.demo_model import demo_model_path

folder = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
inputs = tokenizer("The lighthouse keeper opened the door and", return_tensors="pt")

with hetsched.attach(model, hardware="rtx-4060-laptop-8gb", gpu_memory="25%") as handle:
    out = model.generate(**inputs.to(model.device), max_new_tokens=32, do_sample=False)
    stats = handle.stats()

print(tokenizer.decode(out[0], skip_special_tokens=True))
print(f"\n{stats['tokens_per_s']:.0f} tokens/s on {stats['hardware']} ({'emulated' if stats['emulated'] else 'real'})")
print(f"{stats['hit_rate']:.0%} of the experts were on the GPU when the router asked for them")
