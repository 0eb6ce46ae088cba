"""Routing profiles: how often each expert was chosen, as a CSV file with the columns layer, expert and count.

What forks of llama.cpp write and read to pin hot experts. Layers are MoE layers counted from 0, as in traces.

Shapes: L layers, E experts.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import user_path
from ..reading import read_text_file
from ..types import FloatArray

COLUMNS = ("layer", "expert", "count")
Row = tuple[int, int, float]


def read_routing_profile(path: str | Path) -> list[Row]:
    """The rows of a profile; a header line may come first. Raises InputError, naming the line, for what is no row."""
    text = read_text_file(user_path(path), "a routing profile, a CSV file of your own").removeprefix("\ufeff")
    try:
        rows = list(_rows(str(path), csv.reader(io.StringIO(text, newline=""))))
    except csv.Error as error:
        raise InputError(f"routing profile {path} cannot be read: {error}; give a CSV file of your own") from error
    if not rows:
        raise InputError(f"routing profile {path} has no row; write lines of {', '.join(COLUMNS)}")
    return rows


def counts_LE(rows: list[Row], num_layers: int, num_experts: int) -> FloatArray:
    """Counts of a model of this shape, float64 [L, E], of several rows for one expert the sum.

    Raises InputError for a row of a layer or an expert that the model has not.
    """
    found_LE = np.zeros((num_layers, num_experts))
    for layer, expert, count in rows:
        if layer >= num_layers or expert >= num_experts:
            raise InputError(
                f"the routing profile names expert {expert} of layer {layer}, the model has {num_layers} MoE layers "
                f"(counted from 0) of {num_experts}; take a profile of this model"
            )
        found_LE[layer, expert] += count
    return found_LE


def _rows(path: str, lines: Iterator[list[str]]) -> Iterator[Row]:
    for number, words in enumerate(lines, start=1):
        fields = [word.strip() for word in words]
        if not any(fields) or (number == 1 and tuple(field.lower() for field in fields) == COLUMNS):
            continue
        try:
            layer, expert, count = int(fields[0]), int(fields[1]), float(fields[2])
        except (ValueError, IndexError):
            layer = -1
        if len(fields) != len(COLUMNS) or layer < 0 or expert < 0 or not 0 <= count < math.inf:
            line = ",".join(words)
            raise InputError(f"routing profile {path}, line {number}: {line!r:.60} is not {','.join(COLUMNS)}")
        yield layer, expert, count
