"""What a thread's torch modes would do to a model that is being attached, and to gradients through its experts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch

from ..errors import InputError

F = TypeVar("F", bound=Callable[..., Any])
# What torch.compile does with the frames of this thread, None for nothing; whether any device casts in it. Where torch
# does not say, it might.
frame_compiler: Callable[[], Any] = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: False)
any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)

_TRACED: Callable[[], Any] = getattr(torch._C, "_get_tracing_state", lambda: None)
_MODES: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_TRANSFORM: Callable[[], Any] = getattr(torch._C._functorch, "maybe_current_level", lambda: None)


def must_see_operations() -> bool:
    """Whether a trace, a dispatch mode or a transform of torch follows what is computed in this thread."""
    return _TRACED() is not None or _MODES() > 0 or _TRANSFORM() is not None


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Neither inference mode, autocast nor gradients.

    Tensors made in inference mode cannot be written outside it, and what is allocated at attach outlives the call.
    """
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.no_grad())
        for device in ("cpu", "cuda", "xpu"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        yield


def not_compiled(function: F) -> F:
    """The function, left as it is by torch.compile, which compiles what is around it."""
    return cast(F, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


def refuse_inference_tensor(module: Any, name: str) -> None:
    """Raise InputError for a parameter made in inference mode: nothing may be put in its place later."""
    if getattr(module, name).is_inference():
        raise InputError(
            f"{name} of {type(module).__name__} was made under torch.inference_mode; load the model outside of it"
        )


def without_gradient(out_TH: torch.Tensor, parents: Sequence[torch.Tensor]) -> torch.Tensor:
    """The same numbers; where a gradient is asked for later, an InputError instead of a wrong one.

    `parents`: what the output was computed from.
    """
    if not torch.is_grad_enabled():
        return out_TH
    learning = [parent for parent in parents if parent.requires_grad]
    if not learning:
        return out_TH
    refused: torch.Tensor = _NoGradient.apply(out_TH, learning[0])  # type: ignore[no-untyped-call]
    return refused


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out_TH: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
        return out_TH.view_as(out_TH)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise InputError("hetsched runs inference only and keeps no gradients of experts; detach() before training")
