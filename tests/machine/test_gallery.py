"""The gallery: figures agree with what was published, with the rule they are derived by, and with transformers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from hetsched.cost.model import CostModel
from hetsched.errors import UnknownNameError
from hetsched.geometry import WEIGHT_BITS, MoEGeometry, from_config
from hetsched.machine import gallery
from hetsched.machine.datasheet import derive
from hetsched.machine.profile import Source

MACHINES = [
    "rtx-3060-12gb",
    "rtx-4060-laptop-8gb",
    "rtx-3090",
    "rtx-4090",
    "rtx-4090-x4",
    "rtx-5090",
    "rtx-a5000",
    "rtx-a6000",
    "t4",
    "a100-40gb",
    "h100-pcie",
    "jetson-orin-nx-16gb",
    "jetson-agx-orin-64gb",
]
MODELS = [
    "mixtral-8x7b",
    "olmoe-1b-7b",
    "deepseek-v2-lite",
    "deepseek-v3",
    "qwen1.5-moe-a2.7b",
    "qwen3-30b-a3b",
    "qwen3-235b-a22b",
    "gpt-oss-20b",
    "gpt-oss-120b",
    "phi-3.5-moe",
    "glm-4.5-air",
]
ROUNDED = ["qwen3.5-35b-a3b", "qwen3-next-80b-a3b", "glm-4.7-flash"]  # whose totals their names alone tell


def test_the_promised_names_are_there() -> None:
    """Every machine and model that the documentation promises."""
    assert set(MACHINES) <= set(gallery.machines())
    assert {*MODELS, *ROUNDED} <= set(gallery.models())


@pytest.mark.parametrize("name", gallery.machines())
def test_machine_is_what_the_rule_derives(name: str) -> None:
    """No figure of a gallery machine was edited by hand, and none claims to be measured."""
    profile = gallery.machine(name)
    assert profile.datasheet is not None
    assert derive(profile.datasheet, name, profile.date, profile.title, profile.tool) == profile
    assert profile.source is Source.DATASHEET
    assert set(profile.provenance.values()) <= {Source.DATASHEET}
    assert profile.datasheet.sources


@pytest.mark.parametrize("name", gallery.machines())
def test_derived_figures_stay_below_the_datasheet(name: str) -> None:
    """Efficiencies are below one: no lane is faster than the published peak it comes from."""
    profile = gallery.machine(name)
    sheet = profile.datasheet
    assert sheet is not None
    assert profile.gpu is not None
    assert profile.h2d is not None
    assert profile.gpu.read_bytes_per_s < sheet.gpu_bandwidth_gb_per_s * 1e9
    assert profile.gpu.flops_per_s < sheet.gpu_tflops * 1e12
    assert profile.cpu.read_bytes_per_s < sheet.host_bandwidth_gb_per_s * 1e9
    slot = {3: 15.75e9, 4: 31.5e9, 5: 63.0e9}[sheet.pcie_generation] * sheet.pcie_lanes / 16
    assert profile.h2d.bytes_per_s < (slot or sheet.gpu_bandwidth_gb_per_s * 1e9 / 2)


def test_unified_memory_has_no_bus() -> None:
    """On a Jetson a fetch is a copy inside one memory: its rate is not that of any PCIe slot."""
    for name in ("jetson-orin-nx-16gb", "jetson-agx-orin-64gb"):
        profile = gallery.machine(name)
        assert profile.unified_memory
        assert any("unified" in note for note in profile.notes)
    assert not gallery.machine("rtx-4090").unified_memory


def rest_params(geometry: MoEGeometry) -> int:
    """Weights of everything but the routed experts."""
    return geometry.dense_params * geometry.num_layers + geometry.other_params


@pytest.mark.parametrize("name", MODELS)
def test_geometry_gives_the_published_totals(name: str) -> None:
    """All weights within 1 % of the published total, those used by one token within 3 % of the published active ones.

    Publishers differ in whether the input embedding counts as active; either reading may fit.
    """
    card = gallery.model_card(name)
    geometry, config = card.geometry, card.config
    total = geometry.expert_params * geometry.total_experts + rest_params(geometry)
    assert total == pytest.approx(card.total_params, rel=0.01)
    active = geometry.num_layers * (geometry.top_k * geometry.expert_params + geometry.dense_params)
    embedding = config["vocab_size"] * config["hidden_size"]
    readings = [active + geometry.other_params - embeddings * embedding for embeddings in (0, 1, 2)]
    assert min(abs(reading / card.active_params - 1) for reading in readings) < 0.03


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_totals_are_met(name: str) -> None:
    """All weights within 1 % of the total in a model's name."""
    card = gallery.model_card(name)
    total = card.geometry.expert_params * card.geometry.total_experts + rest_params(card.geometry)
    assert total == pytest.approx(card.total_params, rel=0.01)


@pytest.mark.parametrize("name", ["gpt-oss-20b", "gpt-oss-120b"])
def test_mxfp4_bytes_give_the_published_checkpoint(name: str) -> None:
    """Experts in MXFP4 and the rest in bf16 make up the published checkpoint's size."""
    card = gallery.model_card(name)
    size = card.geometry.total_expert_bytes + 2 * rest_params(card.geometry)
    assert size == pytest.approx(card.checkpoint_bytes, rel=0.005)


@pytest.mark.parametrize("name", [*MODELS, *ROUNDED])
def test_geometry_agrees_with_transformers(name: str) -> None:
    """Expert and layer weights equal those of the model that transformers builds from the same config, on no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(gallery.model_card(name).config)
    config["num_hidden_layers"] = int(config.get("first_k_dense_replace") or 0) + 1
    geometry = from_config(config)
    kind = config.pop("model_type")
    built_from: Any = AutoConfig.for_model(kind, **config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(built_from)
    sizes = {key: value.numel() for key, value in model.named_parameters()}
    layer = {key: size for key, size in sizes.items() if f"layers.{config['num_hidden_layers'] - 1}." in key}
    routed = sum(size for key, size in layer.items() if ".experts." in key)
    assert routed == geometry.expert_params * geometry.num_experts
    assert geometry.dense_params == pytest.approx(sum(layer.values()) - routed, rel=0.005)
    total = geometry.expert_params * geometry.total_experts + rest_params(geometry)
    assert total == pytest.approx(sum(sizes.values()), rel=0.005)
    assert from_config(built_from).expert_bytes == geometry.expert_bytes


@pytest.mark.parametrize("name", ["qwen3.5-35b-a3b", "qwen3-next-80b-a3b"])
def test_layers_of_both_kinds_of_attention_are_averaged(name: str) -> None:
    """Of four layers one attends to everything and three keep a state, as transformers builds them, on no memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**gallery.model_card(name).config, "num_hidden_layers": 4, "num_experts": 2, "num_experts_per_tok": 1}
    geometry = from_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    built = sum(value.numel() for value in model.parameters())
    assert geometry.expert_params * geometry.total_experts + rest_params(geometry) == pytest.approx(built, rel=0.001)


@pytest.mark.parametrize("name", [*MODELS, *ROUNDED])
def test_dtype_variants_shrink_experts_by_their_bits(name: str) -> None:
    """Every usual dtype of a model takes its bits per weight."""
    card = gallery.model_card(name)
    assert card.geometry.dtype in card.dtypes
    for dtype in card.dtypes:
        bits = 8 * gallery.model(name, dtype).expert_bytes / card.geometry.expert_params
        assert bits == pytest.approx(WEIGHT_BITS[dtype], rel=0.01)


def test_repository_id_and_case_name_the_same_model() -> None:
    """People paste hub ids and do not mind case."""
    assert gallery.model("openai/gpt-oss-20b") == gallery.model("GPT-OSS-20B") == gallery.model("gpt-oss-20b")


def test_paths_work_where_names_do(tmp_path: Any) -> None:
    """A machine file and a folder with a config.json are taken as they are."""
    path = gallery.machines()["rtx-3090"]
    assert gallery.machine(path) == gallery.machine(str(path)) == gallery.machine("rtx-3090")
    (tmp_path / "config.json").write_text(
        '{"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 32, "num_local_experts": 4,'
        ' "num_experts_per_tok": 2, "num_hidden_layers": 3, "dtype": "float32"}'
    )
    geometry = gallery.model(tmp_path)
    assert (geometry.num_layers, geometry.num_experts, geometry.expert_bytes) == (3, 4, 3 * 64 * 32 * 4)


@pytest.mark.parametrize(("find", "near"), [(gallery.machine, "rtx-4090"), (gallery.model, "gpt-oss-20b")])
def test_unknown_name_lists_what_is_known(find: Any, near: str) -> None:
    """A typing error is answered with the nearest name."""
    with pytest.raises(UnknownNameError, match=f"did you mean '{near}'"):
        find(near[:-1])


def test_decode_on_the_laptop_is_as_the_arithmetic_says() -> None:
    """gpt-oss-20b on a 4060 laptop, by hand: 13.2 MB over PCIe 4.0 x8, over host and over GPU memory."""
    cost = CostModel(gallery.machine("rtx-4060-laptop-8gb"), gallery.model("gpt-oss-20b"))
    expert = 3 * 2880 * 2880 * 4.25 / 8
    assert cost.copy_s() == pytest.approx(expert / (8 * 1.969e9 * 0.8), rel=0.02)
    assert cost.cpu_s(1) == pytest.approx(expert / (89.6e9 * 0.75) + 2e-6, rel=0.01)
    assert cost.gpu_s(1) == pytest.approx(expert / (256e9 * 0.8) + 1e-6, rel=0.01)
    assert (cost.cpu_call_s(), cost.gpu_call_s()) == (8e-6, 15e-6)


def test_gallery_needs_no_heavy_import() -> None:
    """Looking at machines and models imports neither torch nor any solver."""
    code = (
        "import sys; from hetsched.machine import gallery; from hetsched.cost import model; "
        "model.CostModel(gallery.machine('t4'), gallery.model('olmoe-1b-7b')).cpu_s([1, 2]); "
        "heavy = ('torch', 'ortools', 'pulp', 'cupy', 'transformers', 'matplotlib', 'numba'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
