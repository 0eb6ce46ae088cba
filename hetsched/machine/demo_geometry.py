"""The demo model's geometry, known before the model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..cache import cache_place
from ..geometry import MoEGeometry, from_config
from .model_yaml import load_config

DEMO = "demo"
RECIPE_VERSION = 3
# What of its config.json decides the geometry: SmolLM2-135M's sizes, its feed-forward blocks split as in SplitShape.
CONFIG: dict[str, Any] = {
    "model_type": "qwen2_moe",
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 1280,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "decoder_sparse_step": 1,
    "dtype": "bfloat16",
}


def cached_folder() -> Path:
    """Folder of this recipe version in the user cache; it need not exist."""
    return cache_place("models") / f"demo-v{RECIPE_VERSION}"


def demo_geometry(dtype: str | None = None) -> MoEGeometry:
    """Of the model in the cache if it is built, else of the one that would be; nothing is built. `dtype` None: bf16."""
    return from_config(demo_config(), DEMO, dtype)


def demo_config() -> dict[str, Any]:
    """The config of the model in the cache if it is built, else what of it is known."""
    folder = cached_folder()
    return load_config(folder) if (folder / "config.json").is_file() else CONFIG
