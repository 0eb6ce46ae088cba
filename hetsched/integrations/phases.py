"""The phase of a forward pass, read from how the model was called.

Cost follows tokens, so everything that passes through the layers counts: padding and finished sequences of a batch too,
since transformers routes them to experts like any other token.
"""

from __future__ import annotations

from typing import Any

import torch

from ..types import Phase

# Drafts of one verify step where the call does not say what it is: chains have up to 20 (transformers' default), trees
# about 60 (EAGLE-2, Li et al. 2024).
VERIFY_MOST = 64


def phase_of_call(args: Any, kwargs: dict[str, Any]) -> Phase | None:
    """The phase of a transformers model's forward pass; None where its arguments do not show the tokens.

    With an empty cache or none it is prefill; with a filled one, a single new token in each sequence is decode. Several
    are verify where logits of several positions are wanted, since each draft is judged by the logits before it, and
    prefill where only the last one's are (`logits_to_keep=1`): the next chunk of a long prompt, a chat's next turn. A
    call that wants all logits does not say: then up to VERIFY_MOST new tokens are verify. The last chunk of a prompt,
    if it is one token, counts as decode and costs what one does.

    Passes of continuous batching mix prompts with single tokens: unknown.
    """
    tokens = _tokens(args, kwargs)
    if tokens is None or tokens.ndim < 2:
        return None
    cache = kwargs.get("past_key_values")
    if cache is None and kwargs.get("cache") is not None:
        return Phase.UNKNOWN
    if not is_filled(cache):
        return Phase.PREFILL
    new = int(tokens.shape[1])
    if new == 1:
        return Phase.DECODE
    wanted = _logits_wanted(kwargs.get("logits_to_keep"))
    return Phase.VERIFY if wanted > 1 or (wanted == 0 and new <= VERIFY_MOST) else Phase.PREFILL


def begins_request(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a forward pass is the first of a request: it begins with an empty cache, or with none.

    A later chunk of the prompt, a chat's next turn and every decode step find a filled one. False where that says
    nothing: with `use_cache=False` every pass of a generation begins anew, and continuous batching mixes requests.
    """
    if kwargs.get("use_cache") is False or phase_of_call(args, kwargs) is not Phase.PREFILL:
        return False
    return not is_filled(kwargs.get("past_key_values"))


def tokens_of_call(args: Any, kwargs: dict[str, Any]) -> tuple[int, int, int]:
    """Sequences of a forward pass, new tokens of each, and tokens that its cache holds after it; 0 where unknown.

    A mask over all tokens says how many there are where a cache of linear attention alone does not.
    """
    tokens, mask = _tokens(args, kwargs), kwargs.get("attention_mask")
    if tokens is None or tokens.ndim < 2:
        return 0, 0, 0
    batch, new = int(tokens.shape[0]), int(tokens.shape[1])
    length = getattr(kwargs.get("past_key_values"), "get_seq_length", None)
    try:
        before = int(length()) if length is not None else 0
    except ValueError:
        before = int(mask.shape[1]) - new if mask is not None and mask.ndim == 2 else 0
    return batch, new, before + new


def _tokens(args: Any, kwargs: dict[str, Any]) -> Any:
    """What the layers get, [batch, tokens, ...]: ids or embeddings; of an encoder-decoder, the decoder's."""
    for name in ("decoder_input_ids", "decoder_inputs_embeds", "input_ids"):
        if kwargs.get(name) is not None:
            return kwargs[name]
    if args and args[0] is not None:
        return args[0]
    return kwargs.get("inputs_embeds")


def cached_tokens(kwargs: dict[str, Any]) -> int:
    """Tokens that the cache holds before a forward pass: the place in the text of the pass's first token."""
    length = getattr(kwargs.get("past_key_values"), "get_seq_length", None)
    return 0 if length is None else int(length())


def is_filled(cache: Any) -> bool:
    """Whether a cache holds anything; those of linear attention alone know no length."""
    length = getattr(cache, "get_seq_length", None)
    if length is None:
        return False
    try:
        return bool(length() > 0)
    except ValueError:
        return bool(cache.has_previous_state())


def _logits_wanted(keep: Any) -> int:
    """For how many positions logits are wanted; 0 for all."""
    return keep.numel() if isinstance(keep, torch.Tensor) else int(keep or 0)
