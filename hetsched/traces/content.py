"""What a model folder holds, as a short digest: two folders of one name are two models when their contents differ.

Every file that decides what the model computes counts: configuration, tokenizer, chat template, code, weights. Each
goes in with its name and its size; one of up to WHOLE_BYTES with every byte; a larger one (weights, of which reading
all would take minutes) with BLOCKS blocks of BLOCK_BYTES, from its first bytes, where a safetensors file has its
header, to its last, evenly spread. A change of a few weights between two blocks goes unnoticed; training, a merge or
another rounding changes them all.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from pathlib import Path

from ..errors import InputError
from ..reading import open_regular

SUFFIXES = (".json", ".jinja", ".txt", ".model", ".py", ".safetensors", ".bin", ".gguf")
WHOLE_BYTES = 8 << 20
BLOCKS, BLOCK_BYTES = 64, 64 << 10


def model_digest(folder: str | Path) -> str:
    """Sixteen hexadecimal digits that stand for the contents of a checkpoint folder, or of a GGUF file and its shards.

    Raises InputError for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in _files(Path(folder)):
        with open_regular(path, "a checkpoint's file") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.name}\0{size}\0".encode())
            try:
                for start, count in _blocks(size):
                    file.seek(start)
                    digest.update(file.read(count))
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror}; download it again") from error
    return digest.hexdigest()[:16]


def _files(place: Path) -> list[Path]:
    """What counts of a folder; of one shard, all."""
    if place.is_dir():
        return sorted(path for path in place.iterdir() if path.suffix in SUFFIXES and not path.is_dir())
    others = re.sub(r"-\d{5}(-of-\d{5}\.\w+)$", r"-[0-9][0-9][0-9][0-9][0-9]\1", glob.escape(place.name))
    return sorted(place.parent.glob(others))


def _blocks(size: int) -> list[tuple[int, int]]:
    """First byte and length of the parts of a file that count."""
    if size <= WHOLE_BYTES:
        return [(0, size)]
    return [(i * (size - BLOCK_BYTES) // (BLOCKS - 1), BLOCK_BYTES) for i in range(BLOCKS)]
