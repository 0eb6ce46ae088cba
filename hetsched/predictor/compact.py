"""The compact predictor: a small recurrent network over the layers of one token, beside each expert's own past.

    h_0 = sum over layers of (fast_l @ lately_l + slow_l @ slowly_l)            what the text is about
    h_(l+1) = h_l @ across_l + sum over a chosen in l of chosen_l[a]            what this token has asked for so far
    hidden_l = relu(h_l + fast_l @ own_l + offset_l)
    logit P(e in l) = bias_l[e] + weight_l . logit(mean, slow, fast)_l[e] + hidden_l @ out_l

`mean`, `slow` and `fast` are running means of each expert's demand. A layer that was not reached yet goes into h as a
constant, `unseen_l`, so that one network forecasts one layer ahead and several; where nothing is known of the token,
`before_l` stands for h_l. Everything that depends on ids is a sum of rows of tables, so a layer costs a few products
of a vector with a matrix of width x E or width x width. What is learned while it runs is in kernels.py.

Shapes: L layers, E experts, H width of the network, D numbers of one of the model's hidden states.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..geometry import MoEGeometry
from ..types import Float32Array

WIDTH = 64  # of the network
REACH = 3  # layers ahead
OWN_WEIGHTS = (0.5, 0.28, 0.13)  # of mean, slow and fast before training: those of the transition forecaster
OWN_CONSTANT = -0.15
CHOSEN, OWN, LATELY, SLOWLY = range(4)  # tables in `embed_4LEH`


class Compact(NamedTuple):
    """The network's numbers, float32. `hidden_LDH`: what a layer's hidden state adds to h; D = 0 without them."""

    embed_4LEH: Float32Array
    across_LHH: Float32Array
    unseen_LH: Float32Array
    before_LH: Float32Array
    offset_LH: Float32Array
    out_LHE: Float32Array
    bias_LE: Float32Array
    weight_L3: Float32Array
    hidden_LDH: Float32Array

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Layers, experts, width of the network, numbers of a hidden state (0: ids alone)."""
        layers, width, experts = self.out_LHE.shape
        return layers, experts, width, int(self.hidden_LDH.shape[1])


def shapes(layers: int, experts: int, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a Compact."""
    return {
        "embed_4LEH": (4, layers, experts, width),
        "across_LHH": (layers, width, width),
        "unseen_LH": (layers, width),
        "before_LH": (layers, width),
        "offset_LH": (layers, width),
        "out_LHE": (layers, width, experts),
        "bias_LE": (layers, experts),
        "weight_L3": (layers, 3),
        "hidden_LDH": (layers, hidden, width),
    }


def untrained(geometry: MoEGeometry, seed: int = 0, *, width: int = WIDTH, hidden: int = 0) -> Compact:
    """A network before training: it forecasts from each expert's own past, and a little noise."""
    random = np.random.default_rng(seed)
    scales = {"embed_4LEH": 0.05, "out_LHE": 0.02, "hidden_LDH": 0.3 / max(hidden, 1) ** 0.5}
    made: dict[str, npt.NDArray[np.float32]] = {
        name: (scales.get(name, 0.0) * random.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes(geometry.num_layers, geometry.num_experts, width, hidden).items()
    }
    made["embed_4LEH"][CHOSEN] *= 6.0 / geometry.top_k**0.5
    made["across_LHH"] += np.float32(0.7) * np.eye(width, dtype=np.float32)
    made["bias_LE"] += np.float32(OWN_CONSTANT)
    made["weight_L3"] += np.array(OWN_WEIGHTS, np.float32)
    return Compact(**made)
