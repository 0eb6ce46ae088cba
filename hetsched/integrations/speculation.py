"""Speculation on an attached model: `with handle.speculate(...): model.generate(...)`.

The model's `generate` is given transformers' own assisted decoding, of which one thing is replaced: who drafts. Greedy
text is the same as without; sampled text has the same distribution, for a draft stays only where the model's own
sample is that token.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from transformers import GenerationMixin
from transformers.generation.stopping_criteria import StopStringCriteria

from ..cost.latency import roofline_s
from ..errors import InputError, known_as
from ..speculation.controller import Controller
from ..types import FloatArray
from .candidates import Candidates, OnDraft
from .draft_sensor import sensor_of
from .drafters import Clock, Drafter, ModelDraft, PromptLookup, SelfDraft
from .phases import VERIFY_MOST
from .places import attachment_of

K_MAX = 8
DRAFTS = ("prompt-lookup", "self")


class Speculation:
    """Speculation while the `with` block lasts; `controller` keeps what it learned, `stats()` says what came of it."""

    def __init__(self, attachment: Any, model: Any, draft: Any, k: int | str, told: OnDraft = lambda ids: None) -> None:
        """As Attachment.speculate says."""
        if not isinstance(model, GenerationMixin):
            raise InputError(f"{type(model).__name__} has no generate(), so nothing can be drafted for it")
        self.fixed = _fixed(k)
        self._attachment, self._model, self._told = attachment, model, told
        self._draft = draft if not isinstance(draft, str) else known_as(draft, DRAFTS)
        self._sensor = sensor_of(attachment, model, sees_passes=self._draft == "self")
        drafter = self._drafter()  # refuses now what cannot draft
        self.controller = Controller(
            K_MAX if self.fixed is None else self.fixed,
            attachment.scheduler.cost,
            draft_token_s=getattr(drafter, "draft_token_s", 0.0),
            fixed=self.fixed is not None,
        )

    def __enter__(self) -> Speculation:
        self._attachment.require_attached()
        if "generate" in self._model.__dict__:
            raise InputError("this model's generate() is replaced already; leave the other speculation first")
        self._model.__dict__["generate"] = self._generate
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model.__dict__.pop("generate", None)

    def stats(self) -> dict[str, Any]:
        """What came of it: acceptance, drafts a step (mean_k), share of steps with drafts (go_share), and sums."""
        name = self._draft if isinstance(self._draft, str) else "model"
        return {"draft": name, "k": "auto" if self.fixed is None else self.fixed, **self.controller.record.as_dict()}

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        """The model's generate, with drafts."""
        if kwargs.get("assistant_model") is not None or kwargs.get("custom_generate") is not None:
            raise InputError("generate() was given a way to decode beside handle.speculate(); choose one of the two")
        streamer = kwargs.get("streamer")

        def decode(model: Any, input_ids: Any, **given: Any) -> Any:
            return self._decode(input_ids, **{**given, "streamer": streamer})

        return type(self._model).generate(self._model, *args, custom_generate=decode, **kwargs)

    def _decode(self, input_ids: Any, *, generation_config: Any, logits_processor: Any, **given: Any) -> Any:
        """What generate() calls once everything is prepared."""
        _refuse_ways(self._model, input_ids, generation_config, given)
        clock = _clock_of(self._attachment)
        candidates = Candidates(
            self._drafter(),
            self.controller,
            clock,
            self._attachment.scheduler.stats,
            processors=logits_processor,
            max_length=generation_config.max_length,
            eos_1=getattr(generation_config, "_eos_token_tensor", None),
            told=self._told,
            expect=self._expect,
            **({} if self._sensor is None else {"foresee": self._sensor.tell}),
        )
        target = _Target(self._model, candidates)
        return GenerationMixin._assisted_decoding(
            target, input_ids, generation_config=generation_config, logits_processor=logits_processor, **given
        )

    def _expect(self, stay_T: FloatArray) -> None:
        """The next pass of the model verifies drafts."""
        self._attachment.engine.kept_T = stay_T

    def _drafter(self) -> Drafter:
        """A drafter for one text."""
        if self._draft == "prompt-lookup":
            return PromptLookup()
        if self._draft == "self":
            return SelfDraft(self._model, self._attachment, _clock_of(self._attachment), sensor=self._sensor)
        return _model_draft(self._attachment, self._model, self._draft)


class _Target:
    """The model as transformers' assisted decoding sees it: itself, but for who drafts."""

    def __init__(self, model: Any, candidates: Candidates) -> None:
        self._model, self._candidates = model, candidates

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._model(*args, **kwargs)

    def _get_candidate_generator(self, **_: Any) -> Candidates:
        return self._candidates


def _fixed(k: int | str) -> int | None:
    """The number of drafts that is asked for; None for "auto". Raises InputError for anything else."""
    if isinstance(k, int) and not isinstance(k, bool) and 0 <= k < VERIFY_MOST:
        return k
    if isinstance(k, str) and k.lower() in ("auto", "off"):
        return None if k.lower() == "auto" else 0
    raise InputError(f"k {k!r} is neither 'auto', 'off' nor a number of drafts from 0 to {VERIFY_MOST - 1}")


def _clock_of(attachment: Any) -> Clock:
    """The seconds of the machine that stands behind an attachment: the emulated one's own, or the wall's."""
    stats = attachment.scheduler.stats
    return (lambda: stats.total_s) if attachment.engine.accelerator.emulated else time.perf_counter


def _model_draft(attachment: Any, target: Any, model: Any) -> ModelDraft:
    """A draft model's own machine says what it took; where it is not attached to one, the target's, as predicted.

    Raises InputError for a model of another vocabulary.
    """
    if not isinstance(model, GenerationMixin):
        raise InputError(f"draft {model!r} is no model with generate(); give 'prompt-lookup', 'self' or a model")
    sizes = [each.config.get_text_config(decoder=True).vocab_size for each in (target, model)]
    if sizes[0] != sizes[1]:
        raise InputError(f"the draft model has {sizes[1]} tokens, the model {sizes[0]}; they must share a tokenizer")
    own = attachment_of(model)
    if own is not None:
        return ModelDraft(model, _clock_of(own))
    if not attachment.engine.accelerator.emulated:
        return ModelDraft(model, time.perf_counter)
    device = attachment.hardware.gpu or attachment.hardware.cpu
    layers = model.config.get_text_config(decoder=True).num_hidden_layers
    bits = 8.0 * next(model.parameters()).element_size()
    work_s = roofline_s(device, sum(p.numel() for p in model.parameters()), bits, 1)
    return ModelDraft(model, None, work_s + layers * device.dense_call_s)


def _refuse_ways(model: Any, input_ids: Any, config: Any, given: dict[str, Any]) -> None:
    """Raise InputError for ways to generate that draft nothing, or where drafts would change the text."""
    stops = [each for each in given.get("stopping_criteria") or () if isinstance(each, StopStringCriteria)]
    refused = {
        "beams": (config.num_beams or 1) > 1,
        "several sequences at once": input_ids.shape[0] > 1,
        "an encoder beside the decoder": bool(model.config.is_encoder_decoder),
        "use_cache=False": not given.get("use_cache", True),
        "stop strings": bool(stops),
        "a static cache": getattr(config, "cache_implementation", None) in ("static", "offloaded_static"),
        "a recurrent state, which cannot take drafts back": bool(getattr(model, "_is_stateful", False)),
    }
    for way, asked in refused.items():
        if asked:
            raise InputError(f"speculation does not go with {way}; leave handle.speculate() for this text")
