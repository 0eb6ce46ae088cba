"""The tokenizer of a GGUF file, by transformers' own reading of it.

AutoTokenizer would read the config as well, by gguf-py's reader, which takes seconds to half a minute and knows fewer
architectures than are loaded here.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from .gguf_file import Gguf
from .remote_code import at_work

WHOLE = "tokenizer.huggingface.json"  # a tokenizer.json as it is, which `hetsched model build` writes beside the rest
USUAL_SPLITS = (None, "default", "gpt-2", "olmo")  # llama.cpp's names of GPT-2's way
NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def tokenizer_of(path: Path) -> Any:
    """The tokenizer, chat template included. Raises InputError where the file has none that transformers knows."""
    gguf = Gguf(path)
    with at_work(path, f"{gguf.files[0]} has no tokenizer that transformers reads", "download it again"):
        return _tokenizer(gguf)


def _tokenizer(gguf: Gguf) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    said = {key.removeprefix("tokenizer.ggml."): value for key, value in gguf.metadata.items()}
    if WHOLE in gguf.metadata:
        tokens = said.get("tokens", [])
        named = {name: said.get(f"{key}_token_id") for name, key in NAMES.items()}
        more = {name: tokens[number] for name, number in named.items() if number is not None}
        template = gguf.metadata.get("tokenizer.chat_template")
        whole = Tokenizer.from_str(gguf.metadata[WHOLE])
        return PreTrainedTokenizerFast(tokenizer_object=whole, chat_template=template, **more)
    architecture, parts, config = get_gguf_tokenizer(str(gguf.files[0]))
    backend, more = convert_gguf_tokenizer(architecture, parts)
    split = said.get("pre")
    if said.get("model") == "gpt2" and split not in GGUF_PRE_TOKENIZER_SPLITS and split not in USUAL_SPLITS:
        warnings.warn(
            f"{gguf.files[0].name} splits text as {split!r}, which transformers does not know: GPT-2's way is taken, "
            "and numbers or other scripts may become other tokens than the model was trained on",
            RuntimeWarning,
            stacklevel=2,
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**config, **more})
