"""Recording what a transformers model's routers choose while it generates, attached to hetsched or not.

Hooks before every expert module see the chosen ids and weights, whatever implementation then computes the experts.
Shapes: T tokens of one forward pass, L layers, K top-k, H width of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError
from ..traces.checks import chunks, has_repeat
from ..traces.partial import damaged
from ..traces.routers import Routers
from ..traces.writer import TraceWriter, partial_folder
from ..types import Phase
from .attachment import phase_of_call
from .expert_modules import expert_modules, is_expert_module
from .phases import cached_tokens
from .routers import routers_of

DRAFTING = ("prompt_lookup_num_tokens", "assistant_model")  # of generate's arguments


class Pass(NamedTuple):
    """One forward pass: `experts_TLK` int16, `weights_TLK` float16, its phase, and `hidden_TLH` float16 or None.

    `place`: tokens that the cache held before it.
    """

    experts_TLK: npt.NDArray[np.int16]
    weights_TLK: npt.NDArray[np.float16]
    phase: Phase
    hidden_TLH: npt.NDArray[np.float16] | None = None
    place: int = 0


class Recorder:
    """Collects the passes of one model; `take()` hands over what came since the last call."""

    def __init__(self, num_layers: int, *, hidden: bool = False, places: bool = False) -> None:
        self._num_layers, self._places = num_layers, places
        self._with_hidden = hidden
        self._hidden: dict[int, torch.Tensor] = {}
        self._passes: list[Pass] = []
        self._phase, self._place = Phase.UNKNOWN, 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def take(self) -> list[Pass]:
        """The passes since the last call."""
        passes, self._passes = self._passes, []
        return passes

    def begin(self, _model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Before a forward pass of the model: a hook. Raises InputError for a batch."""
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if tokens is not None and len(tokens) != 1:
            raise InputError(f"a batch of {len(tokens)} cannot be recorded; generate one sequence at a time, one beam")
        phase = phase_of_call(args, kwargs)
        self._phase = Phase.UNKNOWN if phase is None else phase
        self._place = cached_tokens(kwargs) if self._places else 0
        self._layers.clear()

    def see(self, layer: int, ids_TK: torch.Tensor, weights_TK: torch.Tensor, hidden_TH: torch.Tensor) -> None:
        """What the router of one layer chose, and what it chose by."""
        self._layers[layer] = ids_TK.detach(), weights_TK.detach()
        if self._with_hidden:
            self._hidden[layer] = _as_float16(hidden_TH)

    def end(self, *_ignored: Any) -> None:
        """After a forward pass of the model: a hook. Raises InputError when layers chose in unlike shapes."""
        seen = [self._layers[layer] for layer in sorted(self._layers)]
        shapes = {tuple(tensor.shape) for pair in seen for tensor in pair}
        if len(seen) != self._num_layers or len(shapes) != 1:
            raise InputError(
                f"{len(seen)} of {self._num_layers} layers chose experts, with shapes {sorted(shapes)}; "
                "a trace needs every layer to choose equally many for every token"
            )
        ids_TLK = torch.stack([ids for ids, _ in seen], dim=1).to("cpu", torch.int16).numpy()
        weights_TLK = torch.stack([weights for _, weights in seen], dim=1).to("cpu", torch.float16).numpy()
        hidden_TLH = None
        if self._with_hidden:
            hidden_TLH = torch.stack([self._hidden[layer] for layer in sorted(self._layers)], dim=1).numpy()
        self._passes.append(Pass(ids_TLK, weights_TLK, self._phase, hidden_TLH, self._place))
        self._layers.clear()


@contextmanager
def recording(model: torch.nn.Module, *, hidden: bool = False, places: bool = False) -> Iterator[Recorder]:
    """Context in which the forward passes of a model are recorded; its outputs are what they were.

    `hidden`: what each layer's router and experts are given, too; `places`: where in the text each pass begins.

    Raises InputError for a model without routed experts.
    """
    modules = expert_modules(model)
    recorder = Recorder(len(modules), hidden=hidden, places=places)

    def watch(layer: int) -> Callable[..., None]:
        def see(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(zip(("hidden_states", "top_k_index", "top_k_weights"), args, strict=False)) | kwargs
            recorder.see(layer, given["top_k_index"], given["top_k_weights"], given["hidden_states"])

        return see

    hooks = [m.register_forward_pre_hook(watch(i), with_kwargs=True) for i, m in enumerate(modules)]
    hooks += [model.register_forward_pre_hook(recorder.begin, with_kwargs=True)]
    hooks += [model.register_forward_hook(recorder.end)]
    try:
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()


def record(
    model: Any,
    prompts: Sequence[torch.Tensor],
    path: str | Path,
    arguments: dict[str, Any],
    *,
    generate: dict[str, Any],
    meta: dict[str, Any] | None = None,
    hidden: bool = False,
    progress: Callable[[int, int], None] = lambda done, tokens: None,
) -> dict[str, Any]:
    """Generate from every prompt (token ids [1, T]) and write the routing of all passes to a trace file; its meta.

    `arguments` says what is recorded: unfinished work of the same arguments is continued, at the first sequence that
    was not committed; `generate` goes to model.generate; `hidden`: hidden states are written, too, and the
    routers, where they can be had as numbers (else the meta object says why not, as `no_routers`).
    `progress` is told sequences done and tokens recorded. Steps of several tokens after the prompt are verify steps,
    rejected drafts included: it is what the model computed. Where something drafts, `kept` says which stayed in the
    text. Raises InputError where that cannot be told.
    """
    modules = expert_modules(model)
    layers = layer_numbers(model)
    top_k, width = _top_k_and_width(model, prompts[0])
    drafting = any(generate.get(name) for name in DRAFTING)
    extras = ("weights", "step", *(("kept",) if drafting else ()), *(("hidden",) if hidden else ()))
    num_experts = max(int(module.num_experts) for module in modules)
    shape, kept_width = (len(modules), top_k), width if hidden else 0
    writer = TraceWriter(path, num_experts, shape, extras=extras, width=kept_width, arguments=arguments)
    with writer, recording(model, hidden=hidden, places=drafting) as recorder:
        _require_whole_sequences(writer, len(prompts))
        steps = int(writer.array("step")[-1]) + 1 if writer.tokens else 0
        progress(writer.progress, writer.tokens)
        for i in range(writer.progress, len(prompts)):
            text = model.generate(prompts[i], attention_mask=torch.ones_like(prompts[i]), **generate)
            passes = recorder.take()
            kept = {"kept": kept_drafts(passes, getattr(text, "sequences", text).shape[1])} if drafting else {}
            steps = _append(writer, passes, i, steps, kept)
            writer.commit(progress=i + 1)
            progress(i + 1, writer.tokens)
        repeats = {"repeats_allowed": True} if _has_repeats(writer.array("experts")) else {}
        routers, why = _routers(model, modules) if hidden else (None, {})
        return writer.finish(routers, **{"layers": layers, **(meta or {}), **repeats, **why, "recorded": arguments})


def _routers(model: torch.nn.Module, modules: Sequence[Any]) -> tuple[Routers | None, dict[str, str]]:
    """The model's routers, or what the meta object says in their place."""
    try:
        return routers_of(model, [[module] for module in modules]), {}
    except InputError as error:
        return None, {"no_routers": str(error)}


def _require_whole_sequences(writer: TraceWriter, prompts: int) -> None:
    """Raise InputError where the journal and the arrays disagree on how many sequences are done."""
    done = int(writer.array("sequence")[-1]) + 1 if writer.tokens else 0
    if writer.progress != done or done > prompts:
        text = (
            f"its journal counts {writer.progress} sequences, its arrays hold {done}, and there are {prompts} prompts"
        )
        raise damaged(partial_folder(writer.path), text)


def layer_numbers(model: torch.nn.Module) -> list[int]:
    """The model's own number of every layer with routed experts, from module names; 0, 1, ... if those say nothing."""
    names = [name for name, module in model.named_modules() if is_expert_module(module)]
    found = [match for name in names if (match := re.search(r"\d+", name))]
    numbers = [int(match[0]) for match in found]
    return numbers if len(numbers) == len(names) and numbers == sorted(set(numbers)) else list(range(len(names)))


def kept_drafts(passes: Sequence[Pass], text_tokens: int) -> npt.NDArray[np.uint8]:
    """Which inputs of a sequence's passes stayed in its text of so many tokens, uint8 [T]: the first of each pass do.

    Rejected drafts are cropped from the cache, so a pass kept what lies between its place and the next one's; the last
    token of the text was never an input. Raises InputError for places that tell no such thing.
    """
    lengths_S = np.array([len(p.experts_TLK) for p in passes])
    kept_S = np.diff([*(p.place for p in passes), text_tokens - 1])
    if not ((kept_S >= 1) & (kept_S <= lengths_S)).all():
        raise InputError(
            "which drafts stayed cannot be told from this model's cache; record without speculation, and derive verify "
            "steps with 'hetsched trace speculate'"
        )
    return np.concatenate([np.arange(n) < kept for n, kept in zip(lengths_S, kept_S, strict=True)]).astype(np.uint8)


def _append(
    writer: TraceWriter, passes: Sequence[Pass], sequence: int, steps: int, more: dict[str, npt.NDArray[Any]]
) -> int:
    """Add one sequence; the number of steps so far."""
    lengths = [len(p.experts_TLK) for p in passes]
    total = sum(lengths)
    writer.append(
        experts=np.concatenate([p.experts_TLK for p in passes]),
        weights=np.concatenate([p.weights_TLK for p in passes]),
        sequence=np.full(total, sequence),
        phase=np.repeat([int(p.phase) for p in passes], lengths),
        step=np.repeat(np.arange(steps, steps + len(passes)), lengths),
        **more,
        **({"hidden": np.concatenate([p.hidden_TLH for p in passes])} if writer.width else {}),
    )
    return steps + len(passes)


def _top_k_and_width(model: Any, prompt: torch.Tensor) -> tuple[int, int]:
    """Experts per token and numbers of a hidden state, seen in a forward pass of one token: configs name them in many
    ways.
    """
    with recording(model, hidden=True) as recorder, torch.inference_mode():
        model(input_ids=prompt[:, :1], use_cache=False)
    seen = recorder.take()[0]
    assert seen.hidden_TLH is not None
    return int(seen.experts_TLK.shape[2]), int(seen.hidden_TLH.shape[2])


def _as_float16(hidden_TH: torch.Tensor) -> torch.Tensor:
    """On the CPU, with what float16 cannot hold at its ends."""
    most = float(torch.finfo(torch.float16).max)
    return hidden_TH.detach().float().clamp(-most, most).reshape(-1, hidden_TH.shape[-1]).to("cpu", torch.float16)


def _has_repeats(experts_TLK: npt.NDArray[Any]) -> bool:
    return any(has_repeat(experts_TLK[part]).any() for part in chunks(len(experts_TLK), experts_TLK[0].size))
