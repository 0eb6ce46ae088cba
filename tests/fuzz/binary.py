"""Damage inside of .npz, GGUF and pickled files, whose outer form stays right."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from .values import NUMBERS, changed, dumped

COUNTS = 0, 1, 255, 2**31, 2**40, 2**63, 2**64 - 1


def damage_arrays(path: Path, random: Random) -> str:
    """One array of a .npz file is another, and the file is written anew; what was done, in words."""
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    name = random.choice((*arrays, "meta"))
    members = {each: _npy(array) for each, array in arrays.items()}
    if name == "meta":
        document, said = changed(json.loads(str(arrays["meta"])), random)
        members["meta"] = _npy(np.array(dumped(document)))
    else:
        members[name], said = _other(arrays[name], random)
    if random.random() < 0.1:
        del members[name]
        said = "is missing"
    deflated = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", deflated) as archive:
        for each, data in members.items():
            archive.writestr(f"{each}.npy", data)
    return f"{name}: {said}"


def damage_gguf(path: Path, random: Random) -> str:
    """One number, name or text of a GGUF header is another; what was done, in words."""
    import gguf

    reader = gguf.GGUFReader(path, "r+")
    field = random.choice([*reader.fields.values(), *(tensor.field for tensor in reader.tensors)])
    number = random.randrange(len(field.parts))
    part = field.parts[number]
    if part.dtype.kind == "f":
        part[:] = random.choice((0.0, -1.0, np.inf, np.nan, 1e38))
    elif part.dtype.itemsize == 1 and len(part):
        part[random.randrange(len(part))] = random.randrange(256)
    else:
        value = random.choice(COUNTS)
        part[:] = value % 256**part.dtype.itemsize if part.dtype.kind == "u" else -1
    reader.data.flush()
    return f"{field.name}, part {number} of {len(field.parts)} = {part[:4]}"


def damage_pickle(path: Path, random: Random) -> str:
    """Weights that are others, or no weights, or what would run a command if it were unpickled; what was done."""
    import torch

    weights = torch.load(path, weights_only=True)
    name = random.choice(sorted(weights))
    ways: dict[str, Any] = {
        "a command": Command(),
        "a list": [weights],
        "a number": {**weights, name: 1},
        "no text as a name": {**weights, 1: weights[name]},
        "nested": {"state_dict": weights},
        "missing": {each: weights[each] for each in weights if each != name},
        "another shape": {**weights, name: weights[name][None]},
        "another dtype": {**weights, name: weights[name].to(random.choice((torch.int64, torch.complex64, torch.bool)))},
        "no numbers": {**weights, name: weights[name] * math.nan},
        "sparse": {**weights, name: weights[name].to_sparse()},
        "on no device": {**weights, name: weights[name].to("meta")},
    }
    way = random.choice(sorted(ways))
    torch.save(ways[way], path, _use_new_zipfile_serialization=random.random() < 0.8)
    return f"{name}: {way}"


class Command:
    """Leaves a file where it was run when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch was_run ../was_run",)


def _npy(array: Any, *, pickled: bool = False) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=pickled)
    return out.getvalue()


def _other(array: Any, random: Random) -> tuple[bytes, str]:
    """Another array in this one's place, or none."""
    way = random.choice(("pickle", "dtype", "empty", "shorter", "deeper", "value", "value", "shape", "bomb", "no npy"))
    if way == "pickle":
        return _npy(np.array([{"a": array}], object), pickled=True), way
    if way == "shape":  # in its header alone
        data, wrong = _npy(array), random.choice((2**40, 2**63, 2**70, -1, 0))
        header = data[10 : 10 + struct.unpack("<H", data[8:10])[0]].decode()
        text = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': ({wrong}, 2), }}"
        return data[:10] + text.ljust(len(header) - 1).encode() + b"\n" + data[10 + len(header) :], f"{way} {wrong}"
    if way == "bomb":
        return _npy(np.zeros(8 << 20, array.dtype)), way
    if way == "no npy":
        return random.randbytes(100), way
    if way == "value":
        other = array.copy()
        value = random.choice([number for number in NUMBERS if abs(number) < 1e300])
        with np.errstate(all="ignore"):
            other.reshape(-1)[random.randrange(other.size)] = np.array(float(value)).astype(array.dtype)
        return _npy(other), f"{way} {value}"
    changes = {
        "dtype": lambda: array.astype(random.choice(("f8", "u1", "c8", "U3", "?", "i8"))),
        "empty": lambda: array[:0],
        "shorter": lambda: array[: len(array) // 2],
        "deeper": lambda: array[None],
    }
    return _npy(changes[way]()), way
