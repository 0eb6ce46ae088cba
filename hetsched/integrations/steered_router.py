"""SteerMoE's rule inside a router, whatever its class: the logits that its linear map gives, and the top-k it takes.

The rule: s = log_softmax(z) of the router logits z; s_e = max(s) + 0.01 for an expert forced on, min(s) - 0.01 for one
forced off. log_softmax takes one number from all of a token's logits, which a softmax does not see; here it is left
out, z_e = max(z) + 0.01 and min(z) - 0.01, so that routers with a sigmoid give other experts the weights they had.
That settles the choice of a plain softmax router. Where biases, groups or saturated scores come between logits and
choice, the top-k among the layer's experts takes those forced on first and never those forced off.
Shapes: T tokens, C outputs of the linear map (E experts first, then what else the router scores), K top-k.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from ..steering.file import Forced

MARGIN = 0.01
_TOP_K = (torch.topk, torch.Tensor.topk)


class SteeredRouter:
    """One router whose forward follows the rule until take_off(). Its module is held weakly."""

    def __init__(self, router: torch.nn.Module, forced: Forced, experts: int, place: str) -> None:
        self.forced = forced
        self.experts = experts
        self._on = False
        self._place = f"{place}: {type(router).__name__}"
        self._router = weakref.ref(router)
        self._before: Callable[..., Any] | None = router.__dict__.get("forward")
        self._masks: dict[tuple[torch.device, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def put_on(self) -> None:
        """From now on the module's forward is steered."""
        if (router := self._router()) is not None:
            router.__dict__["forward"] = self.forward
            self._on = True

    def take_off(self) -> None:
        """The module's forward is what it was. May be called twice, and where it was never put on.

        Somebody's wrapper around the steered forward stays, and steers no longer.
        """
        self._on = False
        router = self._router()
        if router is None or getattr(router.__dict__.get("forward"), "__self__", None) is not self:
            return
        if self._before is None:
            del router.__dict__["forward"]
        else:
            router.__dict__["forward"] = self._before

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The router's own forward, steered. Raises InputError where its choice is not what was asked for."""
        router = self._router()
        own = self._before or type(router).forward.__get__(router)  # type: ignore[union-attr]
        if not self._on:
            return own(*args, **kwargs)
        with _Rule(self) as rule:
            out = own(*args, **kwargs)
        if not torch.compiler.is_compiling():
            self._require_obeyed(out, rule)
        return out

    def top_k_of(self, out: Any) -> int:
        """Experts that a token chooses, from what the router returned."""
        return int(self._ids_of(out).shape[-1])

    def logits(self, logits_TC: torch.Tensor) -> torch.Tensor:
        """The router logits with the rule applied; others as they were."""
        scores_TE = logits_TC[..., : self.experts]
        highest_T1, lowest_T1 = scores_TE.amax(-1, keepdim=True), scores_TE.amin(-1, keepdim=True)
        on_C, off_C = self._masked(logits_TC)
        raised_TC = torch.where(on_C, highest_T1 + _margin(highest_T1), logits_TC)
        return torch.where(off_C, lowest_T1 - _margin(lowest_T1), raised_TC)

    def choice(self, scores_TE: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """A top-k by these scores: those forced on first, with the highest score there is, and none forced off."""
        on_E, off_E = self._masked(scores_TE)
        bounded_TE = scores_TE.clamp(min=torch.finfo(scores_TE.dtype).min)  # a group left out may have minus infinity
        ranked_TE = bounded_TE.masked_fill(on_E, float("inf")).masked_fill(off_E, float("-inf"))
        ids_TK = torch.topk(ranked_TE, *args, **kwargs).indices
        valued_TE = torch.where(on_E, scores_TE.amax(-1, keepdim=True), scores_TE)
        return torch.return_types.topk((valued_TE.gather(-1, ids_TK), ids_TK))

    def _masked(self, like_TC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of so many columns are forced on, and which off, where these scores are."""
        key = like_TC.device, int(like_TC.shape[-1])
        if key not in self._masks:
            with torch.inference_mode(False):  # they outlive the call
                masks = torch.zeros((2, key[1]), dtype=torch.bool)
                masks[0, list(self.forced.activate)] = True
                masks[1, list(self.forced.deactivate)] = True
                on_C, off_C = masks.to(key[0])
            self._masks[key] = on_C, off_C
        return self._masks[key]

    def _require_obeyed(self, out: Any, rule: _Rule) -> None:
        ids_TK = self._ids_of(out)
        if rule.linear_maps != 1:
            raise self._refusal(f"computes {rule.linear_maps} linear maps that could be its logits, not one")
        if not (rule.chosen or rule.width == self.experts):
            raise self._refusal(f"scores {rule.width} things and takes no top-k among its {self.experts} experts")
        missing = [e for e in self.forced.activate if not bool((ids_TK == e).any(-1).all())]
        if missing or any(bool((ids_TK == e).any()) for e in self.forced.deactivate):
            raise self._refusal("chooses its experts by something else than its logits")

    def _ids_of(self, out: Any) -> torch.Tensor:
        parts = out if isinstance(out, tuple) else (out,)
        for part in parts:
            if isinstance(part, torch.Tensor) and not part.is_floating_point():
                return part
        raise self._refusal("returns no ids of experts")

    def _refusal(self, what: str) -> InputError:
        return InputError(f"{self._place} {what}, so hetsched cannot steer it; leave this layer out of the steering")


class _Rule(TorchFunctionMode):
    """What torch computes while a router's forward runs: its logits and its choice, replaced by steered ones.

    `linear_maps`: with at least as many outputs as there are experts. `width`: outputs of the last of them. `chosen`: a
    top-k among the experts was taken.
    """

    def __init__(self, steered: SteeredRouter) -> None:
        super().__init__()
        self._steered = steered
        self.linear_maps = self.width = 0
        self.chosen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _TOP_K and args and args[0].shape[-1] == self._steered.experts:
            self.chosen = True
            return self._steered.choice(*args, **kwargs)
        out = func(*args, **kwargs)
        if func is not functional.linear or out.shape[-1] < self._steered.experts:
            return out
        self.linear_maps, self.width = self.linear_maps + 1, int(out.shape[-1])
        return self._steered.logits(out)


def _margin(extreme_T1: torch.Tensor) -> torch.Tensor:
    """0.01, or more where the dtype cannot tell a number from itself plus 0.01."""
    return (2 * torch.finfo(extreme_T1.dtype).eps * extreme_T1.abs()).clamp(min=MARGIN)
