"""The routers of a transformers model as numbers (traces/routers.py), found by asking each block about random tokens.

A block is asked with its experts taken out, so that what its router does, what the experts would be given and which of
them were chosen are all seen, whatever the class calls its parts. From that follow the linear map, softmax or sigmoid,
and a bias for the choice. A router is refused that is no plain linear map of what its experts are given, or whose
choice is not ranked by it; groups of experts (DeepSeek-V3) are looked over: all are ranked together.

Hidden states arrive after their layer's normalisation; a layer ahead has its own. Both are RMS norms of nearly the
same stream, so one gain is divided out and the other multiplied in; where either norm is not found, states are taken
as they are. Shapes: L layers, C outputs of a router's map, E experts, H width, T tokens, K top-k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..engine.interrupts import uninterrupted
from ..errors import InputError
from ..traces.routers import Routers
from ..types import Float32Array
from .expert_modules import is_expert_module
from .steered_router import SteeredRouter
from .steering import blocks_of, first_matrix, router_of

_PROBE_TOKENS = 128
_BETTER_THAN_CHANCE = 0.05  # share of chosen experts that a map's ranking has to find beyond what guessing would
_NORMS = ("pre_feedforward_layernorm", "pre_mlp_layernorm", "pre_ff_layernorm", "ffn_norm", "post_attention_layernorm")
_AFTER = ("post_feedforward_layernorm", "post_mlp_layernorm")  # beside one, post_attention_layernorm is not before it


class Router(NamedTuple):
    """One layer's router: `weight` [C, H], `bias` and `choice` [C], `gain` [H] or None, and what is forced."""

    weight: Float32Array
    bias: Float32Array
    choice: Float32Array
    sigmoid: bool
    gain: Float32Array | None
    on: tuple[int, ...] = ()
    off: tuple[int, ...] = ()


def routers_of(model: torch.nn.Module, layers: Sequence[Sequence[Any]]) -> Routers:
    """All routers, steered where they are. `layers`: the expert modules of each MoE layer.

    Raises InputError for the first router that is no plain linear map of what its experts are given.
    """
    blocks = blocks_of(model)
    found = [_router(blocks, tied[0], layer) for layer, tied in enumerate(layers)]
    shape = len(found), max(len(router.bias) for router in found), found[0].weight.shape[1]
    bias, choice = np.full(shape[:2], -np.inf, np.float32), np.zeros(shape[:2], np.float32)
    weight, undo = np.zeros(shape, np.float32), np.ones((shape[0], shape[2]), np.float32)
    forced, gains = np.zeros(shape[:2], np.int8), [router.gain for router in found if router.gain is not None]
    for layer, router in enumerate(found):
        if router.weight.shape[1] != shape[2]:
            raise InputError(
                f"layer {layer}: its router takes {router.weight.shape[1]} numbers, the first {shape[2]}; gates need "
                "one width in all layers, so choose a forecaster that needs ids only, for instance transition"
            )
        columns = len(router.bias)
        weight[layer, :columns], bias[layer, :columns] = router.weight, router.bias
        choice[layer, :columns] = router.choice
        forced[layer, list(router.on)], forced[layer, list(router.off)] = 1, -1
        if router.gain is not None and len(gains) == len(found):
            weight[layer] *= router.gain
            undo[layer] = np.where(router.gain == 0, 0, 1 / np.where(router.gain == 0, 1, router.gain))
    return Routers(weight, bias, choice, forced, np.array([router.sigmoid for router in found], np.uint8), undo)


class _Seen(Exception):
    """The experts were called; nothing after them matters."""


class _Watch(TorchFunctionMode):
    """What a router computes: its linear maps with at least as many outputs as experts, and what follows on them.

    `ranked`: the first scores of all experts whose highest are taken, in groups or not.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()
        self._experts = experts
        self.maps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []  # input, weight, bias
        self.sigmoid = False
        self.ranked: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "topk" and self.maps and self.ranked is None:
            logits_TC = self.maps[0][0].shape[:-1].numel(), len(self.maps[0][1])
            if args[0].numel() == logits_TC[0] * logits_TC[1]:
                self.ranked = args[0].detach().float().cpu().reshape(logits_TC)
        if func is functional.linear and out.shape[-1] >= self._experts:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
            self.maps.append((given["input"], given["weight"], given.get("bias")))
        elif self.maps and name in ("sigmoid", "softmax") and out.shape[-1] >= self._experts:
            self.sigmoid = name == "sigmoid"
        return out


@torch.no_grad()
def _router(blocks: dict[int, torch.nn.Module], experts: Any, layer: int) -> Router:
    block = blocks[id(experts)]
    router = router_of(block, layer, _REFUSED)
    matrix = first_matrix(router)
    if matrix is None or matrix.is_meta:
        raise _refusal(layer, router, "has no weights yet")
    random = torch.Generator().manual_seed(0)
    hidden_TH = torch.randn((_PROBE_TOKENS, matrix.shape[1]), generator=random).to(matrix.device, _dtype(block, matrix))
    with uninterrupted():  # else a stand-in might be left on a module
        watch, (given_TH, ids_TK) = _asked(block, router, experts, hidden_TH, layer)
    if len(watch.maps) != 1:
        raise _refusal(layer, router, f"computes {len(watch.maps)} linear maps that could be its logits, not one")
    taken_TH, weight, bias = watch.maps[0]
    taken_TH = taken_TH.reshape(-1, taken_TH.shape[-1])
    if taken_TH.shape != given_TH.shape or not torch.equal(taken_TH.float(), given_TH.float()):
        raise _refusal(layer, router, "does not take what its experts are given")
    weight_CH, bias_C = _numbers(weight), np.zeros(len(weight), np.float32) if bias is None else _numbers(bias)
    logits_TC = _numbers(given_TH) @ weight_CH.T + bias_C
    score_TC = torch.from_numpy(logits_TC).sigmoid() if watch.sigmoid else torch.from_numpy(logits_TC).softmax(-1)
    choice_C = _added(watch.ranked, score_TC)
    if choice_C is None:
        choice_C = _choice(block, router, score_TC, ids_TK.cpu(), int(experts.num_experts))
    if choice_C is None:
        raise _refusal(layer, router, "does not rank its experts by its logits")
    steered = getattr(router.__dict__.get("forward"), "__self__", None)
    forced = steered.forced if isinstance(steered, SteeredRouter) else None
    on, off = (forced.activate, forced.deactivate) if forced else ((), ())
    return Router(weight_CH, bias_C, choice_C, watch.sigmoid, _gain(blocks, block, matrix.shape[1]), on, off)


def _asked(
    block: torch.nn.Module, router: torch.nn.Module, experts: Any, hidden_TH: torch.Tensor, layer: int
) -> tuple[_Watch, tuple[torch.Tensor, torch.Tensor]]:
    """What an unsteered router computes of tokens, and the hidden states and ids that the experts are given."""
    watch, seen, before = _Watch(int(experts.num_experts)), [], [m.__dict__.get("forward") for m in (router, experts)]

    def route(*args: Any, **kwargs: Any) -> Any:
        with watch:
            return type(router).forward(router, *args, **kwargs)

    def take(hidden_TH: torch.Tensor, ids_TK: torch.Tensor, *_: Any) -> None:
        seen.append((hidden_TH.reshape(-1, hidden_TH.shape[-1]), ids_TK.reshape(-1, ids_TK.shape[-1])))
        raise _Seen

    router.__dict__["forward"], experts.__dict__["forward"] = route, take
    said = "it has not called its experts"
    try:
        block(hidden_TH[None])
    except _Seen:
        pass
    except (TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        said = str(error).partition("\n")[0][:120]
    finally:
        for module, forward in zip((router, experts), before, strict=True):
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward
    if not seen:
        raise _refusal(layer, router, f"cannot be asked about tokens alone ({said})")
    return watch, seen[0]


def _added(ranked_TC: torch.Tensor | None, score_TC: torch.Tensor) -> Float32Array | None:
    """What was added to every token's scores before the highest were taken, [C]; None where it was not the same."""
    if ranked_TC is None:
        return None
    more_TC = ranked_TC - score_TC
    added_C = more_TC.mean(0)
    if not torch.allclose(more_TC, added_C.expand_as(more_TC), atol=0.01 * float(score_TC.std())):
        return None
    return _numbers(torch.where(added_C.abs() < 0.01 * score_TC.std(), 0.0, added_C))


def _choice(
    block: torch.nn.Module, router: torch.nn.Module, score_TC: torch.Tensor, ids_TK: torch.Tensor, experts: int
) -> Float32Array | None:
    """The bias [C] with which the experts with the highest scores are most often the chosen ones; None: with none."""
    held = [*router.named_parameters(), *router.named_buffers()]
    held += [*block.named_parameters(recurse=False), *block.named_buffers(recurse=False)]
    columns, top_k = score_TC.shape[1], ids_TK.shape[1]
    biases_C = [torch.zeros(columns)]
    for _, vector in held:
        if vector.is_floating_point() and vector.numel() in (columns, experts) and vector.numel() == max(vector.shape):
            biases_C.append(functional.pad(vector.float().cpu().reshape(-1), (0, columns - vector.numel())))
    shares = []
    for bias_C in biases_C:
        guessed_TK = (score_TC + bias_C)[:, : max(experts, int(ids_TK.max()) + 1)].topk(top_k).indices
        shares.append(float((guessed_TK[:, :, None] == ids_TK[:, None]).any(1).float().mean()))
    best = int(np.argmax(shares))
    if shares[best] < min(0.99, top_k / experts + _BETTER_THAN_CHANCE):
        return None
    return _numbers(biases_C[best])


def _gain(blocks: dict[int, torch.nn.Module], block: torch.nn.Module, width: int) -> Float32Array | None:
    """What the normalisation before a block multiplies its states by, [H]; None where it is not known.

    Asked of the norm itself: of a vector of ones and minus ones, whose root mean square is one and mean zero.
    """
    children = dict(blocks[id(block)].named_children()) if id(block) in blocks else {}
    names = _NORMS[:-1] if any(name in children for name in _AFTER) else _NORMS
    norm = next((children[name] for name in names if name in children), None)
    weight = None if norm is None else next((p for p in norm.parameters() if p.shape == (width,)), None)
    if norm is None or weight is None or weight.is_meta or width % 2:
        return None
    signs_H = torch.tensor([1.0, -1.0], device=weight.device, dtype=weight.dtype).repeat(width // 2)
    up_H, down_H = _numbers(norm(signs_H[None])[0]), _numbers(norm(-signs_H[None])[0])
    if not np.array_equal(up_H, -down_H):  # it adds something, too
        return None
    gain_H: Float32Array = up_H * _numbers(signs_H)
    return gain_H if np.isfinite(gain_H).all() else None


def _dtype(block: torch.nn.Module, matrix: torch.Tensor) -> torch.dtype:
    """What the block computes in; its router may be kept in another."""
    outside = (p for child in block.children() if is_expert_module(child) for p in child.parameters())
    return next((p.dtype for p in outside if p.is_floating_point()), matrix.dtype)


def _numbers(tensor: torch.Tensor) -> Float32Array:
    return tensor.detach().to("cpu", torch.float32, copy=True).numpy()


_REFUSED = "cannot look ahead with it; choose a forecaster that needs ids only, for instance transition"


def _refusal(layer: int, router: torch.nn.Module, what: str) -> InputError:
    return InputError(f"layer {layer}: {type(router).__name__} {what}, so hetsched {_REFUSED}")
