"""A steering on a model: which module routes each layer, whether it can be steered, and taking it off again."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import InputError
from ..steering.file import Steering
from .expert_modules import expert_modules
from .model_shape import geometry_of, layers_of
from .steered_router import SteeredRouter

_NAMES = ("gate", "router")  # what transformers' blocks call it, beside their experts
_REFUSED = "cannot steer it; leave this layer out of the steering"
_PROBE_TOKENS = 4
_DIGEST_COLUMNS = 64  # of each row of a router's weights


class SteeredModel:
    """A model's routers with a steering on them, until take_off()."""

    def __init__(self) -> None:
        self._routers: list[SteeredRouter] = []

    def put_on(self, model: torch.nn.Module, layers: Sequence[Sequence[Any]], steering: Steering) -> None:
        """Steer. `layers`: the expert modules of each MoE layer.

        Raises InputError for routers with other weights than the steering was made for, or of a class that cannot be
        steered; what was put on until then is taken off by take_off().
        """
        blocks = blocks_of(model)
        found = routers_digest(model, layers)
        if steering.routers and found and steering.routers != found:
            raise InputError(
                f"{steering.name} was made with other router weights ({steering.routers}, here {found}); "
                "make one for this model, or drop its line 'routers' to use it all the same"
            )
        for layer, forced in steering.layers.items():
            for module in layers[layer]:
                block = blocks[id(module)]
                router = router_of(block, layer)
                steered = SteeredRouter(router, forced, int(module.num_experts), f"layer {layer}")
                self._routers.append(steered)
                steered.put_on()
                _probe(router, block, steered, steering, layer)

    def take_off(self) -> None:
        """All routers as they were. May be called twice."""
        for steered in reversed(self._routers):
            steered.take_off()
        self._routers.clear()


@contextmanager
def steered(model: torch.nn.Module, steering: Steering | None) -> Iterator[None]:
    """Context in which a model that is not attached is steered; None: as it is. Raises InputError as attach() does."""
    made = SteeredModel()
    try:
        if steering is not None:
            layers = layers_of(modules := expert_modules(model))
            steering.check_model(geometry_of([tied[0] for tied in layers], getattr(model, "config", modules[0].config)))
            made.put_on(model, layers, steering)
        yield
    finally:
        made.take_off()


def routers_digest(model: torch.nn.Module, layers: Sequence[Sequence[Any]]) -> str:
    """Twelve hexadecimal digits for the weights of all routers; "" where they are not there yet, or there is none.

    Of the first columns, rounded to bf16: the same for a checkpoint loaded in fp32 or in the bf16 it is stored in.
    """
    blocks = blocks_of(model)
    digest, seen = hashlib.sha256(), 0
    for tied in layers:
        weight = first_matrix(_beside(blocks[id(tied[0])]))
        if weight is None or weight.is_meta:
            continue
        columns = weight.detach()[:, :_DIGEST_COLUMNS].to("cpu", torch.bfloat16).contiguous()
        digest.update(columns.view(torch.int16).numpy().tobytes())
        seen += 1
    return digest.hexdigest()[:12] if seen else ""


def blocks_of(model: torch.nn.Module) -> dict[int, torch.nn.Module]:
    """By the identity of every module: the module that holds it."""
    return {id(child): parent for parent in model.modules() for child in parent.children()}


def _beside(block: torch.nn.Module) -> torch.nn.Module | None:
    """The router in a block with experts; None where none has one of the usual names."""
    children = dict(block.named_children())
    return next((children[name] for name in _NAMES if name in children), None)


def router_of(block: torch.nn.Module, layer: int, refused: str = _REFUSED) -> torch.nn.Module:
    """The router in a block with experts. Raises InputError, ending in what is `refused`, where it has none."""
    router = _beside(block)
    if router is None:
        raise InputError(
            f"layer {layer}: {type(block).__name__} has no {' or '.join(_NAMES)} beside its experts, so hetsched "
            f"{refused}"
        )
    return router


def first_matrix(router: torch.nn.Module | None) -> torch.Tensor | None:
    """A router's first matrix, [E, H] or what comes before it: as wide as what it is given."""
    return None if router is None else next((p for p in router.parameters() if p.dim() == 2), None)


@torch.no_grad()
def _probe(
    router: torch.nn.Module, block: torch.nn.Module, steered: SteeredRouter, steering: Steering, layer: int
) -> None:
    """Route a few random tokens, so that a class which does not obey is refused now and not in the middle of a text.

    Weights on meta cannot be asked; such a router is judged by its first real tokens.
    """
    weight = first_matrix(router)
    if weight is None or weight.is_meta:
        return
    random = torch.Generator().manual_seed(0)
    hidden_TH = torch.randn((_PROBE_TOKENS, weight.shape[1]), generator=random).to(weight.device, weight.dtype)
    out = _asked(router, hidden_TH, _given_by(block, router, layer), layer)
    if (top_k := steered.top_k_of(out)) != steering.shape.top_k:
        raise InputError(
            f"{steering.name} says top_k {steering.shape.top_k}, and layer {layer} chooses {top_k} experts a token; "
            "it belongs to another model"
        )


def _asked(router: torch.nn.Module, hidden_TH: torch.Tensor, given: dict[str, Any], layer: int) -> Any:
    """What a router says of tokens. Some blocks give their router [T, H], some [1, T, H]."""
    answer: Any = None
    for hidden in (hidden_TH, hidden_TH[None]):
        answer = _answer(router, hidden, given)
        if not isinstance(answer, Exception):
            return answer
    raise InputError(
        f"layer {layer}: {type(router).__name__} cannot be asked about tokens alone ({answer}), so hetsched cannot "
        "steer it; leave this layer out of the steering"
    )


def _answer(router: torch.nn.Module, hidden: torch.Tensor, given: dict[str, Any]) -> Any:
    """What a router returns, or the error that it ends in. Raises InputError for one that does not obey."""
    try:
        return router(hidden, **given)
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        return error


def _given_by(block: torch.nn.Module, router: torch.nn.Module, layer: int) -> dict[str, Any]:
    """What a block gives its router beside the hidden states: parts of its own, by the same names.

    Raises InputError for a router that must be given something else, such as the tokens' ids.
    """
    given = {}
    for parameter in list(inspect.signature(type(router).forward).parameters.values())[2:]:
        if getattr(block, parameter.name, None) is not None:
            given[parameter.name] = getattr(block, parameter.name)
        elif parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            raise InputError(
                f"layer {layer}: {type(router).__name__} routes by {parameter.name}, so hetsched cannot steer it; "
                "leave this layer out of the steering"
            )
    return given
