"""Geometries of quantised checkpoints, by the quantization_config that each method writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hetsched.errors import InputError
from hetsched.geometry import from_config, stored_bytes
from hetsched.machine import gallery

CONFIG: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_hidden_layers": 4,
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 1000,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "torch_dtype": "bfloat16",
}
# As the checkpoints named have it, but for lists of modules.
FP8 = {  # Qwen/Qwen3-30B-A3B-FP8
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "modules_to_not_convert": [
        "lm_head",
        *(f"model.layers.{layer}.{name}" for layer in range(4) for name in ("input_layernorm", "mlp.gate")),
    ],
}
MXFP4 = {  # openai/gpt-oss-20b
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
INT4 = {  # moonshotai/Kimi-K2-Thinking
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
        }
    },
}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "modules_to_not_convert": None}


def changed(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Settings of the first group of compressed-tensors, else of the method itself."""
    if "config_groups" not in settings:
        return {**settings, **changes}
    weights = settings["config_groups"]["group_0"]["weights"]
    return {**settings, "config_groups": {"group_0": {"weights": {**weights, **changes}}}}


REFUSED = [
    changed(FP8, weight_block_size=None),
    changed(FP8, weight_block_size=[64, 64]),
    changed(INT4, num_bits=8),
    changed(INT4, symmetric=False),
    {**INT4, "format": "float-quantized"},
    {**INT4, "config_groups": {}},
    changed(GPTQ, bits=8),
    changed(GPTQ, desc_act=True),
    changed(AWQ, version="gemv"),
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    changed(INT4, actorder="group"),
    changed(INT4, strategy="channel"),
    changed(GPTQ, checkpoint_format="marlin"),
    changed(FP8, expert_dtype="fp4"),
]


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        (FP8, "fp8-block"),
        (MXFP4, "mxfp4"),
        (INT4, "int4-group"),
        (changed(INT4, group_size=128), "int4-group+group=128"),
        (GPTQ, "gptq"),
        (AWQ, "awq+group=64"),
    ],
)
@pytest.mark.parametrize("place", ["quantization_config", "compression_config"])
def test_quantised_configs_name_their_format(settings: dict[str, Any], dtype: str, place: str) -> None:
    """And bytes by it; also where a model with pictures has the setting beside its text part."""
    expected = stored_bytes(dtype, 2048, 768)
    for config in ({**CONFIG, place: settings}, {"text_config": CONFIG, place: settings}):
        geometry = from_config(config)
        assert (geometry.dtype, geometry.expert_bytes) == (dtype, expected)
        assert geometry.total_expert_bytes == 4 * 16 * expected


@pytest.mark.parametrize("settings", [FP8, MXFP4, INT4, GPTQ, AWQ, *REFUSED])
def test_the_loader_judges_alike(settings: dict[str, Any]) -> None:
    """What is counted can be loaded, as far as the settings say, and what is refused cannot."""
    pytest.importorskip("torch")
    from hetsched.loading.quantization import packing_of

    config = {**CONFIG, "quantization_config": settings}
    assert served(from_config, config) == served(packing_of, config) == (settings not in REFUSED)


def served(judge: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> bool:
    """Whether a function takes a config."""
    try:
        judge(config)
    except InputError:
        return False
    return True


def test_a_published_config_gives_what_the_gallery_says() -> None:
    """gpt-oss-20b and DeepSeek-V3 with their own settings: the geometry of the gallery."""
    for name, settings in (("gpt-oss-20b", MXFP4), ("deepseek-v3", {**FP8, "modules_to_not_convert": None})):
        card = gallery.model_card(name)
        assert from_config({**card.config, "quantization_config": settings}, name) == card.geometry


@pytest.mark.parametrize("settings", [*REFUSED, changed(GPTQ, group_size=-1), {"config_groups": {}}, {}])
def test_what_no_format_stores_is_refused(settings: dict[str, Any]) -> None:
    """Never counted as if it were plain; counted as something else only where that is asked for."""
    config = {**CONFIG, "quantization_config": settings}
    with pytest.raises(InputError, match="choose another checkpoint"):
        from_config(config)
    assert from_config(config, dtype="bf16").dtype == "bf16"


@pytest.mark.parametrize(
    "left_out",
    [
        [f"model.layers.{layer}" for layer in range(4)],
        [f"model.layers.{layer}.mlp" for layer in range(4)],
        ["model.layers.*.mlp.experts"],
        [f"model.layers.{layer}.mlp.experts.{e}.down_proj" for layer in range(4) for e in range(16)],
        ["experts"],
        ["re:.*experts.*"],
    ],
)
def test_experts_that_are_left_out_are_plain(left_out: list[str]) -> None:
    """By any way to name them."""
    for name in ("modules_to_not_convert", "ignore"):
        settings = {**FP8, "modules_to_not_convert": [], name: left_out}
        geometry = from_config({**CONFIG, "quantization_config": settings})
        assert (geometry.dtype, geometry.expert_bytes_L) == ("bf16", ())


def test_layers_that_are_left_out_take_their_own_bytes() -> None:
    """Layer 1 is no part of layers 10 and 11; slots are as large as a plain expert."""
    settings = {**FP8, "modules_to_not_convert": ["model.layers.1.mlp", "model.layers.11"]}
    geometry = from_config({**CONFIG, "num_hidden_layers": 12, "quantization_config": settings})
    packed, plain = stored_bytes("fp8-block", 2048, 768), stored_bytes("bf16", 2048, 768)
    assert geometry.dtype == "fp8-block"
    assert geometry.expert_bytes_L == (packed, plain, *[packed] * 9, plain)
    assert geometry.expert_bytes == plain
    assert geometry.total_expert_bytes == 16 * (10 * packed + 2 * plain)


@pytest.mark.parametrize("key", ["weight_block_size", "config_groups", "group_size", "bits", "modules_to_not_convert"])
@pytest.mark.parametrize("value", [7, "x", [[]], {"a": None}, {"a": {"weights": 3}}, ["re:("], -1.5])
def test_settings_of_the_wrong_kind_are_one_line(key: str, value: Any) -> None:
    """Whatever a config holds: a geometry, or what is wrong with it."""
    for settings in (FP8, INT4, GPTQ, AWQ):
        assert served(from_config, {**CONFIG, "quantization_config": {**settings, key: value}}) in (True, False)


def test_layers_without_experts_do_not_count() -> None:
    """A list that names only dense layers leaves the experts as they are said to be."""
    settings = {**FP8, "modules_to_not_convert": ["model.layers.0"]}
    geometry = from_config({**CONFIG, "mlp_only_layers": [0], "quantization_config": settings})
    assert (geometry.num_layers, geometry.dtype, geometry.expert_bytes_L) == (3, "fp8-block", ())
