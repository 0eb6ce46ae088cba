"""Fused kernel and grouped_mm beside eager, in bf16: are the tokens eager's, and whose experts are nearer to fp64's?

    python -m tests.architectures.nearer

One tiny random model of every expert class of transformers, its weights rounded to bf16, on this machine's CPU. Tokens:
greedy, 24 of them, where the model generates. Errors: of one expert module alone on random tokens, as root mean squares
of the difference from its eager forward on the same numbers in double precision.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import hetsched
from hetsched.integrations.expert_modules import expert_modules

from .discovery import expert_classes
from .experts_alone import hidden, routing
from .overrides import EAGER_REFUSES_BF16
from .test_models import build

KERNEL = "fused-bf16"
NEW_TOKENS, TOKENS = 24, 32


class Row(NamedTuple):
    """One model computed in one way: whether its tokens are eager's (None: it does not generate), and the errors."""

    name: str
    same_tokens: bool | None
    error: float
    eager_error: float


def rows_of(name: str) -> dict[str, Row]:
    """By way of computing."""
    torch.manual_seed(0)
    model = build(name).to(torch.bfloat16)
    module = next(module for module in expert_modules(model) if f"{type(module).__name__}" == name.partition(".")[2])
    exact_TH = _experts(copy.deepcopy(module).double())
    eager, eager_error = _tokens(model, name), _error(_experts(module), exact_TH)
    found: dict[str, Row] = {}

    def look(way: str) -> None:
        error = _error(_experts(module), exact_TH)
        tokens = _tokens(model, name)
        alike = None if eager is None or tokens is None else torch.equal(tokens, eager)
        found[way] = Row(name, alike, error, eager_error)

    with hetsched.attach(model, hardware="cpu", cpu_kernel=KERNEL):
        look(KERNEL)
    for config in [module.config for module in expert_modules(model)]:
        config._experts_implementation_internal = "grouped_mm"
    look("grouped_mm")
    return found


def summary(rows: list[Row]) -> str:
    """One line."""
    told = [row for row in rows if row.error and row.eager_error]
    ratio = math.exp(sum(math.log(row.error / row.eager_error) for row in told) / len(told))
    generating = [row for row in rows if row.same_tokens is not None]
    return (
        f"tokens are eager's in {sum(bool(row.same_tokens) for row in generating)} of {len(generating)} models; the "
        f"experts' error is {ratio:.2f} of eager's (geometric mean of {len(told)}), smaller in "
        f"{sum(row.error < row.eager_error for row in told)}, the same in "
        f"{sum(row.error == row.eager_error for row in told)}"
    )


def _tokens(model: Any, name: str) -> torch.Tensor | None:
    if name in EAGER_REFUSES_BF16 or not model.can_generate():
        return None
    ids = torch.arange(3, 12)[None]
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    tokens: torch.Tensor = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return tokens


def _experts(module: Any) -> torch.Tensor:
    ids_TK, weights_TK = routing(TOKENS, experts=module.num_experts, top_k=min(4, module.num_experts))
    dtype = module.down_proj.dtype
    given_TH, weights_TK = hidden(module, TOKENS).bfloat16().to(dtype), weights_TK.bfloat16().to(dtype)
    with torch.no_grad():
        out_TH: torch.Tensor = module(given_TH, ids_TK, weights_TK)
    return out_TH.double()


def _error(out_TH: torch.Tensor, exact_TH: torch.Tensor) -> float:
    return float((out_TH - exact_TH).square().mean().sqrt())


def main(say: Callable[[str], object] = print) -> None:
    """Every class, then a line for each way."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    by_way: dict[str, list[Row]] = {}
    for name in expert_classes():
        try:
            rows = rows_of(name)
        except (RuntimeError, NotImplementedError) as error:
            say(f"{name}: left out, {str(error).splitlines()[0][:90]}")
            continue
        for way, row in rows.items():
            by_way.setdefault(way, []).append(row)
    for way, all_rows in by_way.items():
        say(f"{way}: {summary(all_rows)}")


if __name__ == "__main__":
    main()
