"""`hetsched model build --format`: what is written holds the numbers that its format rounds to, and is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoTokenizer

import hetsched
from hetsched.cli import main
from hetsched.demo_model.packing import AS_GGUF, AS_SAFETENSORS, pack_demo_model
from hetsched.errors import InputError, UnknownNameError
from hetsched.formats import format_of
from hetsched.integrations.load_report import report_of
from hetsched.loading.gguf_tokenizer import tokenizer_of
from hetsched.loading.load import load_model
from tests.documents import document_of
from tests.packed.models import logits

EMULATED: dict[str, Any] = {"hardware": "rtx-4060-laptop-8gb", "gpu_memory": "40%", "time_scale": 1.0}
TEXT = "It costs 12345 dollars, don't you think? <|im_start|>user\n  hi"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model like the demo, which K-quants can store, with a byte-level tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2MoeConfig, Qwen2MoeForCausalLM

    folder = tmp_path_factory.mktemp("demo")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(each, special=True) for each in special])
    ends = {"bos_token": special[1], "eos_token": special[2], "pad_token": special[2], "unk_token": special[0]}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends, chat_template="{{ messages }}").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "qkv_bias": False}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": True}
    config = Qwen2MoeConfig(**sizes, **heads, **experts, **tokens, shared_expert_intermediate_size=256)
    config.initializer_range = 0.1
    model = Qwen2MoeForCausalLM(config).to(torch.bfloat16)
    model.generation_config.update(do_sample=True, temperature=0.2, top_p=0.9, repetition_penalty=1.1)
    model.save_pretrained(folder)
    return folder


def packed(source: Path, out: Path, name: str, **more: Any) -> tuple[Path, dict[str, Any]]:
    report = pack_demo_model(source, out, name, progress=False, **more)
    return Path(report["path"]), report


@pytest.mark.parametrize("name", AS_GGUF)
def test_a_gguf_file_is_what_gguf_py_unpacks_of_it(source: Path, tmp_path: Path, name: str) -> None:
    path, report = packed(source, tmp_path / "out", name, as_gguf=True)
    assert [each.name for each in (tmp_path / "out").iterdir()] == [f"demo-{name}.gguf"]
    assert report["bytes"] == path.stat().st_size
    model = load_model(path, progress=False)
    model.set_experts_implementation("eager")
    plain = load_model(path, progress=False, unpack=True)
    plain.set_experts_implementation("eager")
    expected = logits(plain)
    with hetsched.attach(model, **EMULATED):
        assert torch.equal(logits(model), expected)
    found = report_of(model)
    assert found is not None
    assert found["formats"] == (() if name == "bf16" else gguf_formats(name))
    if name == "bf16":
        original = load_model(source, progress=False)
        original.set_experts_implementation("eager")
        assert torch.equal(expected, logits(original))


def gguf_formats(name: str) -> tuple[str, ...]:
    """Of experts of 64 neurons, whose down-projections K-quants cannot store."""
    wanted = AS_GGUF[name]
    return (wanted, "q8_0") if wanted in ("q4_k", "q6_k") else (wanted,)


def test_quantised_weights_are_those_of_the_formats(source: Path, tmp_path: Path) -> None:
    """Each matrix of the file is the one of the checkpoint, packed and unpacked."""
    path, _ = packed(source, tmp_path / "out", "q4_0")
    original, found = load_model(source, progress=False), load_model(path, progress=False)
    laid = format_of("q4_0")
    for layer, other in zip(original.model.layers, found.model.layers, strict=True):
        for name in ("gate_up_proj", "down_proj"):
            for e, weights in enumerate(getattr(layer.mlp.experts, name)):
                expected = laid.unpack(laid.pack(weights), tuple(weights.shape), torch.bfloat16)
                assert torch.equal(getattr(other.mlp.experts, name)[e], expected)


@pytest.mark.parametrize("name", AS_SAFETENSORS)
def test_a_checkpoint_is_read_as_published_ones_are(source: Path, tmp_path: Path, name: str) -> None:
    path, _ = packed(source, tmp_path / "out", name)
    model = load_model(path, progress=False)
    original = load_model(source, progress=False)
    laid = format_of(AS_SAFETENSORS[name])
    experts, theirs = model.model.layers[1].mlp.experts, original.model.layers[1].mlp.experts
    for e, weights in enumerate(theirs.down_proj):
        expected = laid.unpack(laid.pack(weights), tuple(weights.shape), torch.bfloat16)
        assert torch.equal(experts.down_proj[e], expected)
    report = report_of(model)
    assert report is not None
    assert report["formats"] == (() if name == "bf16" else (name,))
    assert AutoTokenizer.from_pretrained(path)(TEXT).input_ids == AutoTokenizer.from_pretrained(source)(TEXT).input_ids


def test_the_tokenizer_and_settings_go_along(source: Path, tmp_path: Path) -> None:
    path, _ = packed(source, tmp_path / "out", "q8_0")
    found, expected = tokenizer_of(path), AutoTokenizer.from_pretrained(source)
    assert found(TEXT).input_ids == expected(TEXT).input_ids
    for name in ("chat_template", "bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(found, name) == getattr(expected, name)
    settings, original = (load_model(each, progress=False).generation_config for each in (path, source))
    for name in ("do_sample", "temperature", "top_p", "repetition_penalty", "eos_token_id", "bos_token_id"):
        assert getattr(settings, name) == getattr(original, name)


def test_readers_without_the_whole_tokenizer_have_its_parts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' own reading of llama.cpp's keys, which other files have alone."""
    from hetsched.loading import gguf_tokenizer

    path, _ = packed(source, tmp_path / "out", "q8_0")
    monkeypatch.setattr(gguf_tokenizer, "WHOLE", "no.such.key")
    text = "the sea <|im_end|> oh"
    with pytest.warns(RuntimeWarning, match="splits text as 'smollm'"):
        found = tokenizer_of(path)
    assert found(text).input_ids == AutoTokenizer.from_pretrained(source)(text).input_ids


def test_other_programs_find_what_they_want(source: Path, tmp_path: Path) -> None:
    """llama.cpp's qwen2moe asks for biases and an output matrix."""
    path, _ = packed(source, tmp_path / "out", "q4_0")
    reader = gguf.GGUFReader(path)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["output.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.1.attn_q.bias"] == kinds["blk.1.ffn_gate_inp.weight"] == "F32"
    assert kinds["blk.0.ffn_down_exps.weight"] == kinds["blk.0.attn_output.weight"] == "Q4_0"
    assert reader.fields["tokenizer.ggml.pre"].contents() == "smollm"


def test_nothing_half_written_stays(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("power cut")

    monkeypatch.setattr("gguf.GGUFWriter.write_tensors_to_file", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        packed(source, tmp_path / "out", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'q4_1'"):
        packed(tmp_path / "none", tmp_path / "out", "q4_1")
    with pytest.raises(InputError, match="GGUF files have no fp8-block"):
        packed(tmp_path / "none", tmp_path / "out", "fp8-block", as_gguf=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        packed(tmp_path / "none", tmp_path / "full", "q8_0")


def test_the_command_line_packs_and_verifies(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hetsched.cli.model.demo_model_path", lambda: source)
    out = tmp_path / "out"
    assert main(["model", "build", "--format", "Q4_K", "--out", str(out), "--json"]) == 0
    said = document_of(capsys.readouterr().out)
    assert said["schema"] == "hetsched-model/1"
    assert set(said["bytes_by_format"]) == {"q4_k", "q8_0"}
    base = ["--model", said["path"], "--hardware", "rtx-4060-laptop-8gb", "--gpu-memory", "40%", "--time-scale", "1"]
    assert main(["verify", *base, "--prompt", "the", "--max-new-tokens", "3"]) == 0
    assert "bit-identical" in capsys.readouterr().out
    more = ["--prompt", "the", "--max-new-tokens", "2", "--json"]
    assert main(["run", *base, *more]) == 0
    assert document_of(capsys.readouterr().out)["tokens"]
    (tmp_path / "prompts").write_text("the")
    trace = ["--prompts", str(tmp_path / "prompts"), "--out", str(tmp_path / "t.npz"), "--max-new-tokens", "2"]
    assert main(["trace", "record", "--model", said["path"], *trace]) == 0
    assert main(["model", "build", "--format", "q8_0", "--heal-steps", "2", "--out", str(tmp_path / "other")]) == 2
    assert main(["model", "build", "--gguf", "--out", str(tmp_path / "other")]) == 2
