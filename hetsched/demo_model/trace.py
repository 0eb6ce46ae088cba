"""The dense model's residual stream over the calibration rows: the target the sparse model is fitted to.

Shapes: L layers, N rows, S positions of a row, H hidden, B rows of one batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Trace:
    """Token rows and what the dense model makes of them.

    `tokens_NS` int64 [N, S]; `stream_LNSH` float16 [L, N, S, H]: the residual stream after each layer (half
    precision, as it is large: 1 GB for 30 layers and 29,000 tokens).
    """

    tokens_NS: torch.Tensor
    stream_LNSH: torch.Tensor

    @classmethod
    def empty(cls, model: Any, rows: int, length: int) -> Trace:
        """Trace of zeros for `rows` rows of `length` tokens of `model`."""
        shape = (model.config.num_hidden_layers, rows, length, model.config.hidden_size)
        return cls(torch.zeros(rows, length, dtype=torch.int64), torch.zeros(shape, dtype=torch.float16))

    def __getitem__(self, rows: slice) -> Trace:
        """The trace of some of the rows."""
        return Trace(self.tokens_NS[rows], self.stream_LNSH[:, rows])


@contextmanager
def recording(model: Any, trace: Trace) -> Iterator[list[slice]]:
    """Context in which each forward pass of `model` is written to `trace`.

    Yields the place to write, `[rows, positions]`, which the caller sets before each pass.
    """
    place = [slice(None), slice(None)]

    def writer(layer: int) -> Any:
        def write(_module: Any, _inputs: Any, output_BSH: torch.Tensor) -> None:
            trace.stream_LNSH[layer, place[0], place[1]] = output_BSH.to(torch.float16)

        return write

    hooks = [layer.register_forward_hook(writer(i)) for i, layer in enumerate(model.model.layers)]
    try:
        yield place
    finally:
        for hook in hooks:
            hook.remove()


def join(traces: list[Trace]) -> Trace:
    """One trace of the rows of all `traces`, in order."""
    tokens_NS = torch.cat([trace.tokens_NS for trace in traces])
    return Trace(tokens_NS, torch.cat([trace.stream_LNSH for trace in traces], dim=1))
