"""Linear maps of a model's dense part on the CPU: our own product for few tokens, torch's for all else.

Shapes: N output columns, K input columns, "..." whatever comes before; T tokens, all of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, SupportsIndex, TypeAlias

import torch
import torch.nn.functional as F
from torch import is_grad_enabled
from torch.compiler import is_dynamo_compiling

from ..cpu_kernels.packed.dense import DenseProduct, matrix_of
from ..errors import InputError
from .expert_modules import is_expert_module
from .torch_modes import any_autocast, must_see_operations

Key: TypeAlias = tuple[int, int, torch.dtype]  # rows and columns of a weight, and its dtype


class DenseLinear:
    """What stands in for a linear module's forward while its model is attached.

    `parameters`: the module's own, looked up at each call: what was replaced is found anew, or left to torch. `most`:
    tokens up to which our product is the faster one.
    """

    __slots__ = ("_address", "_product", "_shape", "_weight", "dtype", "most", "parameters")

    def __init__(self, parameters: Mapping[str, torch.Tensor | None], most: int) -> None:
        self.parameters, self.most = parameters, most
        self._look(parameters["weight"])

    def __call__(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's name, by which it may be called
        """As torch.nn.Linear's forward.

        torch multiplies where gradients, traces, modes or transforms must see the operation, and under autocast.
        """
        if is_dynamo_compiling() or is_grad_enabled() or must_see_operations() or (out := self._few(input)) is None:
            return F.linear(input, self.parameters["weight"], self.parameters["bias"])  # type: ignore[arg-type]
        return out

    def _few(self, x: torch.Tensor) -> torch.Tensor | None:
        """The result [..., N] of few tokens; None where torch is to multiply."""
        weight, size = self.parameters["weight"], x.numel()
        if (
            weight is None
            or weight is not self._weight
            or weight.data_ptr() != self._address
            or weight.shape != self._shape
        ):
            self._look(weight)
        if self._product is None or not 0 < size <= self.most * self._shape[1] or x.dtype is not self.dtype:
            return None
        if any_autocast() or type(x) is not torch.Tensor or not x.is_cpu:
            return None
        shape, bias = x.shape, self.parameters["bias"]
        if shape[-1] != self._shape[1] or (bias is not None and (bias.dtype is not self.dtype or not bias.is_cpu)):
            return None
        out = x.new_empty((*shape[:-1], self._shape[0]))
        self._product.into(out, x.contiguous(), bias)
        return out

    def _look(self, weight: torch.Tensor | None) -> None:
        """Find the weight where it is now."""
        matrix = None if weight is None else matrix_of(weight)
        self._weight, self._address, self._product = weight, 0, None
        if matrix is not None and weight is not None:
            self._address, self._shape, self.dtype = weight.data_ptr(), weight.shape, weight.dtype
            self._product = DenseProduct(matrix, weight.dtype)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        raise InputError(
            "a linear map of an attached model cannot be copied or pickled; call detach() first, or save it with "
            "state_dict()"
        )


class DenseLinears:
    """The linear modules of a model that were given a forward of ours."""

    def __init__(self) -> None:
        self._taken: list[weakref.ref[torch.nn.Module]] = []

    def put_on(self, model: torch.nn.Module, most: Mapping[Key, int]) -> None:
        """Up to how many tokens our product is to be taken, by shape and dtype of a weight; 0 where it is not."""
        for module, key in dense_linears(model):
            if most.get(key):
                self._taken.append(weakref.ref(module))
                module.__dict__["forward"] = DenseLinear(module._parameters, most[key])

    def take_off(self) -> None:
        """The modules are called as their class says again. May be called twice."""
        for reference in self._taken:
            module = reference()
            if module is not None and isinstance(module.__dict__.get("forward"), DenseLinear):
                del module.__dict__["forward"]
        self._taken.clear()


def dense_linears(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Key]]:
    """Every plain linear module outside of the experts whose weight our product can read, unless somebody else has
    given it a forward; with its weight's shape and dtype."""
    experts = {id(part) for module in model.modules() if is_expert_module(module) for part in module.modules()}
    for module in model.modules():
        if type(module) is torch.nn.Linear and id(module) not in experts and "forward" not in module.__dict__:
            weight = module._parameters.get("weight")
            if weight is not None and "bias" in module._parameters and matrix_of(weight) is not None:
                yield module, (weight.shape[0], weight.shape[1], weight.dtype)
