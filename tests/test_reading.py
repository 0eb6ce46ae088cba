"""Input that would hang, or fill the memory, is refused in one line; so is what is no file at all."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetsched.errors import InputError
from hetsched.geometry import MAX_LAYERS, MoEGeometry, from_config, is_installed_format
from hetsched.machine import gallery
from hetsched.machine.model_yaml import load_geometry, load_model_card
from hetsched.machine.profile_yaml import load_profile
from hetsched.machine.yaml_lines import FILE_BYTES, FileError
from hetsched.reading import JSON_DEPTH, open_regular, parse_json, read_bytes, read_json, read_text_file, refusing
from hetsched.traces.prompts import read_prompts
from hetsched.traces.rows import row_file
from hetsched.traces.trace import load_trace
from tests.cli.test_cli import call

CONFIG = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
READERS = {
    "profile": load_profile,
    "model": load_model_card,
    "config": load_geometry,
    "trace": load_trace,
    "prompts": read_prompts,
    "rows": lambda path: list(row_file(path, "jsonl").rows()),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, reader: str, kind: str) -> None:
    """A pipe that nobody writes to, a device without an end, a folder: each is named for what it is, at once."""
    if kind == "device":
        path = Path("/dev/zero")
    else:
        path = tmp_path / "thing"
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(InputError, match=r"(zero|thing).*(pipe|device|folder|[Dd]irectory|No such file)"):
        READERS[reader](path)


def test_sizes_are_bounded(tmp_path: Path) -> None:
    """By the size that the file system says, and by what comes where it says 0, as in /proc."""
    (tmp_path / "long.txt").write_bytes(b"x" * 101)
    assert read_bytes(tmp_path / "long.txt", "a text", 101) == b"x" * 101
    with pytest.raises(InputError, match="more than 100 bytes; give the path of a text"):
        read_bytes(tmp_path / "long.txt", "a text", 100)
    if Path("/proc/self/maps").exists():
        with pytest.raises(InputError, match="more than 100 bytes"):
            read_text_file("/proc/self/maps", "a text", 100)
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    with pytest.raises(InputError, match="not UTF-8"):
        read_text_file(tmp_path / "latin.txt", "a text")
    for wrong in ("a\0b", "x" * 5000):
        with pytest.raises(InputError, match="cannot read"):
            open_regular(wrong, "a text")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PK\x03\x04\x14\0\0\0\xff\xff", "a zip archive, as .npz and .pt files are"),
        (b"GGUF\x03\0\0\0\x01\x02", "a GGUF file"),
        (struct.pack("<Q", 40) + b'{"weight":{"dtype":"F32"}}\xff', "a safetensors file"),
        (b"\x93NUMPY\x01\0", "a .npy array"),
        (b"\x80\x02}q\0.", "a pickle"),
        (b"<!DOCTYPE html><html></html>", "HTML or XML"),
        (b"# a profile\nschema: hetsched-profile/1\n", "YAML"),
        (b"\xff\xfea\0", "text in UTF-16"),
        (b"\x7fELF\0\0", "a binary file"),
        (b"", "empty"),
    ],
)
def test_the_wrong_kind_of_file_is_named(tmp_path: Path, data: bytes, kind: str) -> None:
    """By what it begins with, whatever reads it, in one line that says what is wanted."""
    path = tmp_path / "thing"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_json(path, "a comparison", "give a comparison")
    assert str(caught.value).startswith(f"{path} is {kind}, no")
    assert str(caught.value).endswith("; give a comparison")
    if kind not in ("a zip archive, as .npz and .pt files are", "a binary file"):
        with pytest.raises(InputError, match=f"is {kind}, not a routing trace"):
            load_trace(path)


def test_text_that_is_as_it_should_be_is_read(tmp_path: Path) -> None:
    """What files of other kinds begin with may stand in a text."""
    for text in ("GGUF is a format", "PK", "<b>: write HTML", "{1, 2}", "key: value"):
        (tmp_path / "prompts.txt").write_text(text)
        assert read_prompts(tmp_path / "prompts.txt") == [text]


def test_json_is_bounded_in_depth_and_digits() -> None:
    assert parse_json("[" * JSON_DEPTH + "]" * JSON_DEPTH)
    for depth in (JSON_DEPTH + 2, 100_000):
        with pytest.raises(ValueError, match="nested"):
            parse_json("[" * depth + "]" * depth)
    with pytest.raises(ValueError, match="digits"):
        parse_json("9" * 10_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [1]\nb: *a\n", "anchors and aliases are not read"),
        ("a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(30)), "aliases"),
        (f"a: {'[' * 1000}{']' * 1000}\n", "nested"),
        (f"a: {'[' * 200_000}\n", "nested"),
        (f"a: {'9' * 20_000}\n", "characters"),
        ("#" * (FILE_BYTES + 1), "bytes"),
    ],
)
def test_yaml_that_unfolds_or_nests_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.yaml").write_text(f"schema: hetsched-profile/1\n{text}")
    with pytest.raises(InputError, match=words) as caught:
        load_profile(tmp_path / "p.yaml")
    assert len(str(caught.value)) < 1000


def test_wrong_values_are_shown_in_short(tmp_path: Path) -> None:
    """A number of thousands of digits, a date that is none, and more problems than anybody reads."""
    unknown = "".join(f"key{i}: 1\n" for i in range(5000))
    (tmp_path / "p.yaml").write_text(
        f"schema: hetsched-profile/1\nname: x\ndate: 2026-13-99\npinnable_bytes: {{value: {'9' * 3000}, unit: B}}\n"
        f"fingerprint: {{cores: 2026-13-99}}\n{unknown}"
    )
    with pytest.raises(FileError) as caught:
        load_profile(tmp_path / "p.yaml")
    assert len(caught.value.problems) > 5000
    assert len(str(caught.value)) < 5000
    assert "and 49" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 10_000_000_000}, f"num_hidden_layers of the config is 10000000000.* to {MAX_LAYERS}"),
        ({"num_hidden_layers": 10**4000}, "num_hidden_layers .* beyond all reason"),
        ({"num_experts": 10**6}, "num_experts"),
        ({"num_experts_per_tok": -2}, "num_experts_per_tok"),
        ({"num_experts_per_tok": 9}, "top_k 9 .* exceeds"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"moe_intermediate_size": 2.5}, "moe_intermediate_size of the config is 2.5"),
        ({"hidden_size": "64"}, "hidden_size of the config is '64'"),
        ({"hidden_size": [64, "x"]}, "must hold numbers"),
        ({"decoder_sparse_step": -1}, "decoder_sparse_step"),
        ({"mlp_only_layers": 3}, "mlp_only_layers"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"first_k_dense_replace": 10**12}, "first_k_dense_replace"),
        ({"num_experts": 1 << 15, "num_hidden_layers": 900}, "no model has more than"),
    ],
)
def test_absurd_sizes_are_refused_in_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """In a config.json, and the same in a model's YAML file: before anything is done by such a number."""
    assert from_config(CONFIG).num_layers == 4
    with pytest.raises(InputError, match=words):
        from_config({**CONFIG, **change})
    if all(not isinstance(value, int) or value < 10**100 for value in change.values()):
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **change}))
        with pytest.raises(InputError, match=words):
            load_geometry(tmp_path)


def test_what_a_library_raises_is_one_line() -> None:
    """Of whatever class; but what was refused already, a missing package and an interruption are left as they are."""

    class PanicException(BaseException):
        """As a library in Rust raises it."""

    for error, said in (
        (KeyError("heads"), "f: KeyError: 'heads'; mend it"),
        (OSError("no\nsuch  file."), "f: no such file; mend it"),
        (RecursionError(), "f: RecursionError; mend it"),
        (PanicException("called unwrap"), "f: PanicException: called unwrap; mend it"),
    ):
        with pytest.raises(InputError) as caught, refusing("f", "mend it"):
            raise error
        assert str(caught.value) == said
    for left in (InputError("as it is"), ModuleNotFoundError("tiktoken"), KeyboardInterrupt()):
        with pytest.raises(type(left)) as kept, refusing("f", "mend it"):
            raise left
        assert kept.value is left


@pytest.mark.parametrize("key", ["dtype", "dtypes"])
def test_a_class_that_a_file_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """On the command line "module:Class" is what the user asks for; in a file it is what somebody else does."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    document = yaml.safe_load(gallery.models()["olmoe-1b-7b"].read_text())
    document[key] = ["trap:Format"] if key == "dtypes" else "trap:Format"
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(FileError, match=r"'trap:Format'.*allowed"):
        load_model_card(tmp_path / "x.yaml")
    assert not is_installed_format("trap:Format")
    assert is_installed_format("q4_k/q6_k")


def test_a_run_refuses_them_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before transformers makes a list of ten thousand million layers, in a nested section as well."""
    for config in ({**CONFIG, "num_hidden_layers": 10**10}, {"text_config": {"num_hidden_layers": 10**10}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        code, out, err = call(capsys, "run", "--model", str(tmp_path), "--prompt", "x")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "num_hidden_layers of the config is 10000000000" in err


@pytest.mark.parametrize("change", [{"num_layers": 1_001}, {"hidden": 2**25}, {"ffn": 1.5}, {"top_k": True}])
def test_a_geometry_has_sizes_that_some_model_could_have(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        MoEGeometry(**{"name": "m", "num_layers": 1, "num_experts": 4, "top_k": 1, "hidden": 8, "ffn": 8, **change})


@pytest.mark.parametrize("name", ["", "~nobody-of-that-name/x", "x" * 5000])
def test_a_name_that_is_no_path_is_an_unknown_name(name: str) -> None:
    """An empty one is not the working folder."""
    for find in (gallery.machine, gallery.model):
        with pytest.raises(InputError, match=r"unknown (machine|model)") as caught:
            find(name)
        assert len(str(caught.value)) < 1000


def test_a_missing_machine_file_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "profiles", "show", "nowhere.yaml")
    assert (code, err.count("\n")) == (2, 1)
