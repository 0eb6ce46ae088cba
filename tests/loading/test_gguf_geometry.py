"""The geometry of a GGUF file from its header, against that of the model which is loaded from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hetsched.cli.shapes import config_named, model_named, model_or_name  # noqa: E402
from hetsched.errors import InputError  # noqa: E402
from hetsched.integrations.expert_modules import expert_modules  # noqa: E402
from hetsched.integrations.model_shape import geometry_of  # noqa: E402
from hetsched.loading.gguf_geometry import geometry_of_gguf  # noqa: E402
from hetsched.loading.load import load_model  # noqa: E402
from hetsched.memory.needs import needs_of  # noqa: E402
from tests.loading.made_gguf import KIND, files, write  # noqa: E402
from tests.loading.test_gguf import normed_qwen3_moe  # noqa: E402
from tests.packed.models import gpt_oss  # noqa: E402

TYPES = [
    (KIND.Q8_0, KIND.Q8_0),
    (KIND.Q4_0, KIND.Q8_0),
    (KIND.F16, KIND.F16),
    (KIND.Q5_0, KIND.MXFP4),
    (KIND.F32, KIND.Q8_0),
]


def of_loaded(path: Path) -> Any:
    """As attach() sees the model."""
    model = load_model(path, progress=False)
    return geometry_of(list(expert_modules(model)), model.config)


@pytest.mark.parametrize(("up", "down"), TYPES, ids=[f"{up.name}-{down.name}" for up, down in TYPES])
@pytest.mark.parametrize("make", [normed_qwen3_moe, gpt_oss])
def test_the_header_tells_what_the_model_will_be(tmp_path: Path, make: Callable[[], Any], up: Any, down: Any) -> None:
    """Bytes, format and counts are those of the loaded model, from any of its shards, biases and unpacked types too."""
    path = tmp_path / "m.gguf"
    write(path, make(), up, down, tensors=11)
    shard = files(path)[1]
    found, config = geometry_of_gguf(shard)
    assert replace(found, name="") == replace(of_loaded(shard), name="")
    assert needs_of(found, config).host_experts == found.total_expert_bytes


def test_layers_of_other_types_take_their_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a Q4_K_M file: some layers' down matrices are larger, and a slot has room for those."""
    import tests.loading.made_gguf as made_gguf

    path, real = tmp_path / "m.gguf", made_gguf.packed
    seen = iter(range(100))

    def packed(value: Any, kind: Any) -> Any:
        return real(value, KIND.Q8_0 if kind == KIND.Q4_0 and next(seen) else kind)

    monkeypatch.setattr(made_gguf, "packed", packed)
    write(path, normed_qwen3_moe(), KIND.MXFP4, KIND.Q4_0)
    found, _ = geometry_of_gguf(path)
    assert len(set(found.expert_bytes_L)) == 2
    assert found.expert_bytes == max(found.expert_bytes_L)
    assert replace(found, name="") == replace(of_loaded(path), name="")


def test_a_width_is_said_to_be_none_of_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures by it are estimates; real formats are not commented on."""
    assert model_or_name("gpt-oss-20b", "int4") == ("gpt-oss-20b", "int4")
    assert "int4 is a width, not a format" in capsys.readouterr().err
    model_or_name("gpt-oss-20b", "q4_0")
    assert capsys.readouterr().err == ""


def test_verbs_take_a_file_where_they_take_a_name(tmp_path: Path) -> None:
    """As it is, or as another format; a name stays what it is, and what is no GGUF is one line."""
    path = tmp_path / "M.GGUF"
    write(path, normed_qwen3_moe(), KIND.Q8_0, KIND.Q8_0)
    found, config = geometry_of_gguf(path)
    assert model_named(str(path)) == found
    assert config_named(str(path)) == config
    model, dtype = model_or_name(str(path), "bf16")
    assert (model, dtype) == (found.with_dtype("bf16"), None)
    assert model_or_name("gpt-oss-20b", "bf16") == ("gpt-oss-20b", "bf16")
    path.write_bytes(b"no header")
    with pytest.raises(InputError, match="no GGUF file"):
        model_named(str(path))
