"""Generation for the verbs that show text: by the checkpoint's generation_config.json, timed, and why it ended."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from hetsched.errors import NO_NUMBERS, InputError

GREEDY = {"do_sample": False, "num_beams": 1}


@dataclass(frozen=True)
class Generated:
    """A text and what it took: `new` are its token ids without the prompt's, `wall_s` is with the prompt's time.

    `stopped_by`: "eos" where the model ended its text, "length" at the limit, "other" by a rule of its own.
    """

    text: str
    new: list[int]
    wall_s: float
    stopped_by: str

    @property
    def tokens(self) -> int:
        """Their number."""
        return len(self.new)

    def wall_figures(self, stats: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Wall seconds, all tokens over them, and how many an emulated second took: 1 where time is real."""
        from hetsched.accelerators.emulated.device import DEFAULT_SCALE

        return {
            "wall_s": self.wall_s,
            "wall_tokens_per_s": self.tokens / self.wall_s if self.wall_s else 0.0,
            "time_scale": (options.get("time_scale") or DEFAULT_SCALE) if stats["emulated"] else 1.0,
            "stopped_by": self.stopped_by,
        }


def generate(model: Any, tokenizer: Any, ids: Any, max_new_tokens: int, *, stream: bool, **more: Any) -> Generated:
    """One text as the model's generation config says, but for its length.

    `more`: settings that go before the config's (`**GREEDY`: the likeliest token each time). `stream` writes the text
    to standard output as it comes, with beams once it is whole.
    """
    import torch
    import transformers

    config = model.generation_config
    settings: dict[str, Any] = dict(more)
    as_it_comes = stream and more.get("num_beams", config.num_beams or 1) == 1
    if config.pad_token_id is None:
        settings["pad_token_id"] = first_of(tokenizer.pad_token_id, tokenizer.eos_token_id, config.eos_token_id)
    if as_it_comes:
        settings["streamer"] = transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = ids.to(model.device)
    begin_s = time.perf_counter()
    out = _generated(
        model,
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        num_return_sequences=1,
        return_dict_in_generate=False,
        tokenizer=tokenizer,
        logits_processor=[only_numbers],
        **settings,
    )
    wall_s = time.perf_counter() - begin_s
    new = out[0, ids.shape[1] :].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True)
    if stream and not as_it_comes:
        print(text)
    return Generated(text, new, wall_s, stopped_by(new, config.eos_token_id, max_new_tokens))


def _generated(model: Any, ids: Any, **settings: Any) -> Any:
    """generate()'s ids. Raises InputError where a token is to be drawn by chances that are no numbers."""
    try:
        return model.generate(ids, **settings)
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):
            raise
        raise InputError(NO_NUMBERS) from error


def only_numbers(ids: Any, scores_BV: Any) -> Any:
    """A logits processor that raises InputError where the best score is infinite or no number: any token would do."""
    if not bool(scores_BV.max() < math.inf):
        raise InputError(NO_NUMBERS)
    return scores_BV


def stopped_by(new: list[int], eos: int | list[int] | None, max_new_tokens: int) -> str:
    """Why a generation of these new tokens ended; see Generated."""
    if new and new[-1] in (eos if isinstance(eos, list) else [eos]):
        return "eos"
    return "length" if len(new) >= max_new_tokens else "other"


def first_of(*ids: int | list[int] | None) -> int | None:
    """The first token id that there is."""
    found = [i[0] if isinstance(i, list) else i for i in ids if i is not None]
    return found[0] if found else None
