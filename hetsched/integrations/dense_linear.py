"""Linear maps of a model's dense part on the CPU: our own products where they are faster, torch's for all else.

Shapes: N output columns, K input columns, "..." whatever comes before; T tokens, all of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, SupportsIndex

import torch
import torch.nn.functional as F
from torch import is_grad_enabled
from torch.compiler import is_dynamo_compiling

from ..cpu_kernels.packed.dense import DenseProduct, ManyTokens, matrix_of
from ..errors import InputError
from ..measure.dense_kernels import Key
from ..packed import PackedWeight
from .expert_modules import is_expert_module
from .torch_modes import any_autocast, must_see_operations


class Way(NamedTuple):
    """How a linear map is computed: by our product up to `most` tokens. `many`: packed weights for more of them, None
    for torch. `rounded`: activations of few tokens are rounded to bytes where the format allows it, lossy."""

    most: int
    many: ManyTokens | None = None
    rounded: bool = False


class DenseLinear:
    """What stands in for a linear module's forward while its model is attached.

    `parameters`: the module's own, looked up at each call: what was replaced is found anew, or left to torch.
    """

    __slots__ = ("_address", "_product", "_shape", "_way", "_weight", "dtype", "parameters")

    def __init__(self, parameters: Mapping[str, torch.Tensor | None], way: Way) -> None:
        self.parameters, self._way = parameters, way
        self._look(parameters["weight"])

    def __call__(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  torch's name, by which it may be called
        """As torch.nn.Linear's forward.

        torch multiplies where gradients, traces, modes or transforms must see the operation, and under autocast.
        """
        if is_dynamo_compiling() or is_grad_enabled() or must_see_operations() or (out := self._ours(input)) is None:
            return F.linear(input, self.parameters["weight"], self.parameters["bias"])  # type: ignore[arg-type]
        return out

    def _ours(self, x: torch.Tensor) -> torch.Tensor | None:
        """The result [..., N]; None where torch is to multiply."""
        weight, bias = self.parameters["weight"], self.parameters["bias"]
        if (
            weight is None
            or weight is not self._weight
            or weight.data_ptr() != self._address
            or weight.shape != self._shape
        ):
            self._look(weight)
        if self._product is None or x.dtype is not self.dtype or type(x) is not torch.Tensor or any_autocast():
            return None
        shape, size, few = x.shape, x.numel(), self._way.most * self._shape[1]
        if not size or (size > few and self._way.many is None) or shape[-1] != self._shape[1] or not x.is_cpu:
            return None
        if bias is not None and (bias.dtype is not self.dtype or not bias.is_cpu):
            return None
        if size > few:
            return self._of_many(x, bias)
        out = x.new_empty((*shape[:-1], self._shape[0]))
        self._product.into(out, x.contiguous(), bias)
        return out

    def _of_many(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        assert self._way.many is not None
        assert self._product is not None
        out_TN = self._way.many(x.reshape(-1, self._shape[1]), self._product.matrix)
        return (out_TN if bias is None else out_TN.add_(bias)).view(*x.shape[:-1], self._shape[0])

    def _look(self, weight: torch.Tensor | None) -> None:
        """Find the weight where it is now."""
        matrix = matrix_of(weight)
        self._weight, self._address, self._product = weight, 0, None
        if matrix is not None and weight is not None:
            self._address, self._shape, self.dtype = weight.data_ptr(), weight.shape, weight.dtype
            self._product = DenseProduct(matrix, weight.dtype, rounded=self._way.rounded)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        raise InputError(
            "a linear map of an attached model cannot be copied or pickled; call detach() first, or save it with "
            "state_dict()"
        )


class DenseLinears:
    """The linear modules of a model that were given a forward of ours."""

    def __init__(self) -> None:
        self._taken: list[weakref.ref[torch.nn.Module]] = []

    def put_on(self, model: torch.nn.Module, ways: Mapping[Key, Way]) -> None:
        """Compute the model's linear maps in these ways; those of other weights stay as they are."""
        for module, key in dense_linears(model):
            if key in ways:
                self._taken.append(weakref.ref(module))
                module.__dict__["forward"] = DenseLinear(module._parameters, ways[key])

    def take_off(self) -> None:
        """The modules are called as their class says again. May be called twice."""
        for reference in self._taken:
            module = reference()
            if module is not None and isinstance(module.__dict__.get("forward"), DenseLinear):
                del module.__dict__["forward"]
        self._taken.clear()


def dense_linears(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Key]]:
    """Every plain linear module outside of the experts whose weight our product can read, with what that is.

    Not those to which somebody else has given a forward.
    """
    experts = {id(part) for module in model.modules() if is_expert_module(module) for part in module.modules()}
    for module in model.modules():
        if type(module) is torch.nn.Linear and id(module) not in experts and "forward" not in module.__dict__:
            weight = module._parameters.get("weight")
            if weight is not None and "bias" in module._parameters and matrix_of(weight) is not None:
                packed = weight.format.name if isinstance(weight, PackedWeight) else ""
                yield module, Key(weight.shape[0], weight.shape[1], weight.dtype, packed)
