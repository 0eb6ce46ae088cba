"""A checkpoint folder of safetensors files: what it holds, from the headers alone, and its tensors by memory map."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import InputError
from ..geometry.checks import brief
from ..reading import read_json, refusing
from .packed_tensors import PackedTensor, UnpackedSlice, packed_tensors
from .quantization import Packing

AGAIN = "download it again"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# More than this is never mapped for experts at a time, since mapped pages that were read count as the process's memory.
MAPPED_BYTES = 256 << 20
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as a header describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * self.dtype.itemsize


class Checkpoint:
    """The tensors of a folder by name. Nothing is read but headers until open() or slices().

    `tensors`: as they are stored; `packed`: matrices that several of them hold together, by the names of plain ones;
    `held`: both, each weight once. Raises InputError, naming the file, for one that is missing, truncated, damaged or
    of an unknown dtype, and naming the tensor for one that is not as `packing` says.
    """

    def __init__(self, folder: Path, packing: Packing | None = None) -> None:
        self.folder = folder
        self.tensors: dict[str, TensorHeader] = {}
        for file, names in _files(folder).items():
            with opened(file) as shard:
                found = list(shard.keys())
                if missing := sorted(names - set(found)):
                    raise InputError(
                        f"{file} lacks {missing[0]}, which {INDEX} says it holds; download the two again, together"
                    )
                self.tensors.update({name: _stored(file, name, shard.get_slice(name)) for name in found})
        self.packed = packed_tensors(self.tensors, packing)
        self.held: dict[str, TensorHeader | PackedTensor] = _plain(self.tensors, self.packed) | self.packed

    @property
    def files(self) -> list[Path]:
        """The shards, in order."""
        return list(dict.fromkeys(stored.file for stored in self.tensors.values()))

    @property
    def largest_shard_bytes(self) -> int:
        """Size of the largest file."""
        return max((file.stat().st_size for file in self.files), default=0)

    @property
    def float_dtype(self) -> torch.dtype | None:
        """Dtype of the first floating point tensor, what transformers takes where a config names none."""
        floats = (s.dtype for s in self.tensors.values() if s.dtype.is_floating_point and s.dtype.itemsize > 1)
        return next(floats, None)

    def slices(self, names: list[str]) -> dict[str, Any]:
        """Tensors held that are read, and unpacked, when they are indexed; each keeps its file mapped."""
        shards: dict[Path, Any] = {}

        def stored(name: str) -> Any:
            file = self.tensors[name].file
            if file not in shards:
                shards[file] = opened(file)
            return shards[file].get_slice(name)

        def held(name: str) -> Any:
            packed = self.packed.get(name)
            if packed is None:
                return stored(name)
            return UnpackedSlice(packed, {part: stored(each) for part, each in packed.names.items()})

        return {name: held(name) for name in names}


class Reader:
    """Parts of a checkpoint's tensors as views of mapped files, of which little is mapped at a time.

    `mapped_bytes`: read since the files were last opened. The views are to be copied before release() is called. What
    is packed is no view but unpacked, in fp32; parts() has it as it is.
    """

    def __init__(self, checkpoint: Checkpoint, limit_bytes: int = MAPPED_BYTES) -> None:
        self._tensors = checkpoint.tensors
        self._packed = checkpoint.packed
        self._limit_bytes = min(limit_bytes, checkpoint.largest_shard_bytes)
        self._open: dict[Path, Any] = {}
        self._slices: dict[str, Any] = {}
        self.mapped_bytes = 0

    def whole(self, name: str) -> torch.Tensor:
        """All of a tensor."""
        if packed := self._packed.get(name):
            if not packed.stack:
                return packed.unpacked(self.parts(packed))
            return torch.cat([self.part(name, index) for index in range(packed.stack)])
        return self._stored(name)

    def part(self, name: str, index: int) -> torch.Tensor:
        """Entry `index` of a tensor's first dimension, which is kept with length 1."""
        if packed := self._packed.get(name):
            return packed.unpacked(self.parts(packed, index))[None]
        return self._stored(name, index)

    def parts(self, packed: PackedTensor, index: int | None = None) -> dict[str, torch.Tensor]:
        """The stored tensors of a packed matrix, or of matrix `index` of a stack, by their names in the format."""
        return {part: self._stored(name, index) for part, name in packed.names.items()}

    def release(self) -> None:
        """What was read is no longer needed: unmap it once there is much of it."""
        if self.mapped_bytes >= self._limit_bytes:
            self.close()

    def close(self) -> None:
        """Unmap everything."""
        self._slices.clear()
        self._open.clear()
        self.mapped_bytes = 0

    def _stored(self, name: str, index: int | None = None) -> torch.Tensor:
        stored = self._tensors[name]
        self.mapped_bytes += stored.num_bytes // (1 if index is None else stored.shape[0])
        view: torch.Tensor = self._slice(name)[... if index is None else slice(index, index + 1)]
        return view

    def _slice(self, name: str) -> Any:
        if name not in self._slices:
            file = self._tensors[name].file
            if file not in self._open:
                self._open[file] = opened(file)
            self._slices[name] = self._open[file].get_slice(name)
        return self._slices[name]


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds safetensors under the usual names."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def opened(file: Path) -> Any:
    """safetensors' handle of a file; a context manager. Raises InputError for a file that cannot be read."""
    with refusing(f"{file} is truncated or damaged", AGAIN):
        return safe_open(file, framework="pt")


def _files(folder: Path) -> dict[Path, set[str]]:
    """Each shard with the tensors that the index says it holds; of a single file, nothing is said."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: set()}
    index = folder / INDEX
    whole = read_json(index, "an index of shards", AGAIN)
    weights = whole.get("weight_map") if isinstance(whole, dict) else None
    if not isinstance(weights, dict):
        raise InputError(f"{index} has no weight_map with a file for each tensor; {AGAIN}")
    for name, file in weights.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise InputError(f"{index}: {name:.80} is in {brief(file)}, which is no file name of its folder; {AGAIN}")
    shards: dict[Path, set[str]] = {}
    for name, file in weights.items():
        shards.setdefault(folder / file, set()).add(name)
    absent = [file for file in shards if not os.path.isfile(file)]  # is_file() raises for a name too long
    if absent:
        raise InputError(
            f"{absent[0]} is missing, one of {len(absent)} of {len(shards)} shards that are; download it again"
        )
    return dict(sorted(shards.items()))


def _plain(tensors: dict[str, TensorHeader], packed: dict[str, PackedTensor]) -> dict[str, TensorHeader]:
    """What belongs to no packed matrix. The weights' shapes and the scales of activations that come with one do."""
    used = {name for each in packed.values() for name in each.names.values()}
    modules = {name.removesuffix("weight") for name in packed if name.endswith(".weight")}
    return {
        name: header
        for name, header in tensors.items()
        if name not in used and (name.endswith(".bias") or f"{name.rpartition('.')[0]}." not in modules)
    }


def _stored(file: Path, name: str, header: Any) -> TensorHeader:
    dtype = DTYPES.get(header.get_dtype())
    if dtype is None:
        raise InputError(f"{name} in {file} is of dtype {header.get_dtype()}, which cannot be loaded")
    return TensorHeader(file, tuple(header.get_shape()), dtype)
