"""What a format is. Importing it imports no torch.

Shapes: R rows = output columns of the product, C columns = input columns.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from ..errors import InputError
from ..plugins import instance

if TYPE_CHECKING:
    import torch

Shape: TypeAlias = tuple[int, int]
Parts: TypeAlias = "Mapping[str, torch.Tensor]"

ALIGN = 64  # bytes; parts begin at cache lines
SCALES = ("bfloat16", "float16", "float32")
ITEM_BYTES = {"uint8": 1, "int8": 1, "float8_e4m3fn": 1, "bfloat16": 2, "float16": 2, "int32": 4, "float32": 4}


class Part(NamedTuple):
    """A tensor of a packed matrix, and where it begins in the matrix's bytes; `dtype` by torch's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class Format(Protocol):
    """How a matrix [R, C] of weights is stored.

    `weight_bits`: of one weight, scales included, in a matrix of whole blocks. `block`: rows and columns that share a
    scale; (1, 1) where there is none. `stored_as`: for each part the end of its tensor's name in a checkpoint.
    Arguments of the constructor are what a checkpoint's configuration says, such as the dtype of scales.
    """

    name: str
    weight_bits: float
    block: Shape
    stored_as: Mapping[str, str]

    def parts(self, shape: Shape) -> tuple[Part, ...]:
        """The parts of a matrix, one after another, each at a multiple of ALIGN.

        Raises InputError for a shape that the format cannot store.
        """
        ...

    def num_bytes(self, shape: Shape) -> int:
        """Bytes of a matrix, from its first part to the end of the last."""
        ...

    def unpack(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> torch.Tensor:
        """The weights [R, C]: computed in fp32, rounded once to `dtype`, on the device of the parts.

        Raises InputError for parts of other shapes or with what the format does not serve.
        """
        ...

    def pack(self, weights_RC: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of the nearest matrix that this format can store, by the quantiser that the class names.

        Raises InputError for weights that are not finite.
        """
        ...


class Stored:
    """What formats have in common: they say what tensors there are, this lays them out."""

    name: str
    block: Shape

    def tensors(self, shape: Shape) -> list[Part]:
        """The tensors of a matrix, in order; where they begin is of no account."""
        raise NotImplementedError

    def parts(self, shape: Shape) -> tuple[Part, ...]:
        """See Format."""
        laid, begin = [], 0
        for part in self.tensors(shape):
            laid.append(part._replace(begin=begin))
            begin += -(-part.num_bytes // ALIGN) * ALIGN
        return tuple(laid)

    def num_bytes(self, shape: Shape) -> int:
        """See Format."""
        last = self.parts(shape)[-1]
        return last.begin + last.num_bytes

    def checked(self, parts: Parts, shape: Shape) -> list[torch.Tensor]:
        """The tensors of a matrix in their order, by their names. Raises InputError where one is not what it should."""
        wanted = self.tensors(shape)
        for part in wanted:
            found = parts.get(part.name)
            dtype = "" if found is None else str(found.dtype).removeprefix("torch.")
            if found is None or dtype != part.dtype or found.numel() != prod(part.shape):
                seen = "nothing" if found is None else f"{dtype} {list(found.shape)}"
                raise InputError(
                    f"{self.name} of a matrix {list(shape)} wants {part.name} as {part.dtype} {list(part.shape)}, "
                    f"not {seen}; check the checkpoint's quantization_config"
                )
        return [parts[part.name].reshape(part.shape) for part in wanted]

    def in_blocks(self, shape: Shape, width: int | None = None) -> int:
        """Blocks of a row. Raises InputError for rows that are no whole number of them."""
        wide = width or self.block[1]
        if min(shape) < 1 or shape[1] % wide:
            raise InputError(f"{self.name} stores rows of a multiple of {wide} weights, not a matrix {list(shape)}")
        return shape[1] // wide


def require_finite(name: str, weights_RC: torch.Tensor) -> torch.Tensor:
    """The weights in fp32. Raises InputError for weights that no block can scale."""
    wide = weights_RC.detach().float()
    if not bool(wide.isfinite().all()):
        raise InputError(f"{name} cannot store weights that are infinite or no numbers; check the source")
    return wide


def scale_bytes(name: str, scales: str, group: int = 1) -> int:
    """Bytes of a scale. Raises InputError for scales that are no floats, and for groups of no weight."""
    if group < 1:
        raise InputError(f"{name}'s group is {group}; give it at least 1 weight")
    if scales not in SCALES:
        raise InputError(f"{name}'s scales are {scales!r:.40}; they can be {', '.join(SCALES)}")
    return ITEM_BYTES[scales]


def format_of(spec: Any) -> Format:
    """The format that a spec names: "mxfp4", "int4-group+group=128", or a format itself.

    Raises UnknownNameError, which lists what is installed, or InputError for arguments that it does not take.
    """
    found: Format = instance("hetsched.formats", spec)
    return found


def spec_of(made: Format) -> str:
    """Its name, and its group where that is unusual: what `format_of` makes such a format of, but for dtypes of scales.

    By it kernels, measured tables and geometries know each other.
    """
    usual = inspect.signature(type(made)).parameters.get("group")
    group = getattr(made, "group", None)
    return made.name if usual is None or group == usual.default else f"{made.name}+group={group}"


def views_of(row: torch.Tensor, laid: Format, shape: Shape) -> dict[str, torch.Tensor]:
    """The parts of a matrix in its bytes, uint8 [num_bytes] that begin at a multiple of 4; no copy."""
    import torch

    return {
        part.name: row[part.begin : part.begin + part.num_bytes].view(getattr(torch, part.dtype)).view(part.shape)
        for part in laid.parts(shape)
    }
