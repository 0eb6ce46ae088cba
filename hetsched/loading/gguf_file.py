"""A GGUF file, single or in shards: what it holds, from the headers alone, and its tensors' bytes.

The layout is that of ggml's docs/gguf.md. gguf-py reads a header value by value into arrays, seconds to half a minute
for today's vocabularies, and transformers' reader knows no MXFP4; this one reads what loading asks for.
"""

from __future__ import annotations

import mmap
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ..errors import InputError

MAGIC, VERSIONS = b"GGUF", (2, 3)
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOAT, STRING, ARRAY = 6, 8, 9
ALIGNMENT = 32  # bytes, where the file names none
MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as a header describes it: `shape` in torch's order, `begin` its first byte in the file."""

    file: Path
    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    begin: int

    @property
    def num_bytes(self) -> int:
        """Bytes in the file."""
        weights, size = GGML_QUANT_SIZES[self.kind]
        return int(prod(self.shape) // weights * size)


class Gguf:
    """Metadata and tensors of a model. `path`: the file, or any one of its shards.

    `metadata` holds numbers, strings and lists of them by their keys. Raises InputError, naming the file, for one that
    is missing, truncated, damaged or too new.
    """

    def __init__(self, path: Path) -> None:
        self.files = shards_of(path)
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        for file in self.files:
            metadata, tensors = _read(file)
            self.metadata = self.metadata or metadata
            self.tensors.update({tensor.name: tensor for tensor in tensors})
        self.architecture = str(self.metadata.get("general.architecture", ""))
        if not self.architecture:
            raise InputError(f"{self.files[0]} names no general.architecture; it is no model, or damaged")
        told = self.metadata.get("split.tensors.count", len(self.tensors))
        if told != len(self.tensors):
            raise InputError(f"{path} and its shards hold {len(self.tensors)} tensors of {told}; download them again")

    @property
    def largest_shard_bytes(self) -> int:
        """Size of the largest file."""
        return max(file.stat().st_size for file in self.files)

    def value(self, key: str, default: Any = None) -> Any:
        """Metadata of the architecture: key "block_count" is that of "qwen3moe.block_count"."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


class GgufReader:
    """Reads tensors' bytes straight to where they are wanted, from any thread; maps nothing. A context manager."""

    def __init__(self) -> None:
        self._open: dict[Path, Any] = {}
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> GgufReader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def read(self, tensor: GgufTensor, begin: int, into: torch.Tensor) -> None:
        """Fill `into`, uint8 and contiguous, with the tensor's bytes from `begin` on. Raises InputError."""
        with self._one_at_a_time:
            if tensor.file not in self._open:
                self._open[tensor.file] = tensor.file.open("rb", buffering=0)
            file, wanted = self._open[tensor.file], memoryview(into.numpy().data)
            file.seek(tensor.begin + begin)
            done = 0
            while done < len(wanted):
                count = file.readinto(wanted[done:])
                if not count:
                    raise InputError(f"{tensor.file} ends inside of {tensor.name}; download it again")
                done += count


def shards_of(path: Path) -> list[Path]:
    """All shards of the model that a file is one of, in order. Raises InputError where one is missing."""
    named = SHARD.fullmatch(path.name)
    files = [path]
    if named:
        count = int(named[3])
        files = [path.with_name(f"{named[1]}-{i + 1:05}-of-{count:05}{path.suffix}") for i in range(count)]
    absent = [file for file in files if not file.is_file()]
    if absent:
        more = f", one of {len(absent)} of {len(files)} shards that are; download it again" if named else ""
        raise InputError(f"{absent[0]} is missing{more or '; give a GGUF file'}")
    return files


def _read(file: Path) -> tuple[dict[str, Any], list[GgufTensor]]:
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as blob:
            return _Header(file, blob).all()
    except InputError:
        raise
    except (struct.error, ValueError, OverflowError, UnicodeDecodeError, OSError, KeyError) as error:
        raise InputError(f"{file} is truncated or damaged ({error}); download it again") from error


class _Header:
    """A cursor in the header of one file."""

    def __init__(self, file: Path, blob: Any) -> None:
        self._file, self._blob, self._at = file, blob, 0

    def all(self) -> tuple[dict[str, Any], list[GgufTensor]]:
        """Metadata and tensors."""
        if self._blob[:4] != MAGIC:
            raise InputError(f"{self._file} is no GGUF file: it does not begin with {MAGIC.decode()}")
        self._at = 4
        version, num_tensors, num_keys = self._take("IQQ")
        if version not in VERSIONS:
            raise InputError(f"{self._file} is of GGUF version {version}, and only 2 and 3 of little-endian are read")
        metadata = {self._string(): self._value() for _ in range(num_keys)}
        found = [(self._string(), *self._place()) for _ in range(num_tensors)]
        align = int(metadata.get("general.alignment", ALIGNMENT))
        begin = -(-self._at // align) * align
        tensors = [self._tensor(*each, begin) for each in found]
        self._refuse_overlap(tensors)
        return metadata, tensors

    def _refuse_overlap(self, tensors: list[GgufTensor]) -> None:
        """Raise InputError where two tensors share bytes: one of them is not what it is said to be."""
        laid = sorted(tensors, key=lambda tensor: (tensor.begin, tensor.num_bytes))
        for one, other in pairwise(laid):
            if one.begin + one.num_bytes > other.begin:
                raise InputError(f"{self._file} has {one.name} and {other.name} in one place; it is damaged")

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int, begin: int) -> GgufTensor:
        if kind not in set(GGMLQuantizationType):
            raise InputError(f"{name} in {self._file} is of GGML type {kind}, unknown to gguf-py; update gguf")
        tensor = GgufTensor(self._file, name, GGMLQuantizationType(kind), shape, begin + offset)
        weights, _ = GGML_QUANT_SIZES[tensor.kind]
        if (shape[-1] if shape else 1) % weights or tensor.begin + tensor.num_bytes > len(self._blob):
            raise InputError(f"{name} {list(shape)} does not fit into {self._file}; it is truncated or damaged")
        return tensor

    def _take(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self._blob, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return found

    def _string(self) -> str:
        (length,) = self._take("Q")
        if length > len(self._blob) - self._at:
            raise ValueError("a string goes beyond its end")
        self._at += length
        return str(self._blob[self._at - length : self._at], "utf-8")

    def _place(self) -> tuple[tuple[int, ...], int, int]:
        (dimensions,) = self._take("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = self._take(f"{dimensions}Q")
        kind, offset = self._take("IQ")
        return tuple(reversed(shape)), kind, offset

    def _value(self) -> Any:
        (kind,) = self._take("I")
        if kind == STRING:
            return self._string()
        if kind == FLOAT:  # the shortest number that is this one in single precision, which was meant
            return float(str(np.float32(self._take("f")[0])))
        if kind != ARRAY:
            return self._take(SCALARS[kind])[0]
        inner, count = self._take("IQ")
        if count > len(self._blob):
            raise ValueError("an array goes beyond its end")
        if inner == STRING:
            return list(self._strings(count))
        return list(self._take(f"{count}{SCALARS[inner]}"))

    def _strings(self, count: int) -> Iterator[str]:
        for _ in range(count):
            yield self._string()
