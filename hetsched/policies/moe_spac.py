"""moe-spac, moe-spac-fixed: verify steps as a sensor, one level per expert, a threshold for copies and victims.

MoE-SpAc (arXiv 2603.09983) and its public code. Every expert has a level s in 0..5. When its layer has run with
`count` tokens for it: up one where count - s >= 5, down one where s - count >= 1; so a step of fewer than five tokens
(K < 4 drafts) raises no level. Misses run on the CPU. In the background, absent experts that are hot are copied,
highest level first and the next layer to run first, in the place of cold residents, the lowest level first; the running
layer is frozen, as if at level 6.

moe-spac-fixed: hot is level >= 1, the threshold that the public code fixes.

moe-spac chooses the boundary between hot (GPU) and cold (CPU) of every layer after each step, by an integer program
that balances the lanes. Of a layer l, in the order of the utility space (level, then what the CPU needed for it):

    a_l in 0..D   how many absent experts of level >= 1 are copied, the first in that order
    b_l in 0..D   how many residents leave, the last in that order; each of a lower level than any copied one
    t_ml(a, b)    longer lane of l for what remembered step m demanded, after those copies: on the GPU its call and its
                  residents, on the CPU the round trip and the others
    minimise      H * mean over the last M steps of (sum over l of t_ml(a_l, b_l)) + copy_s * sum over l of a_l
    subject to    sum of a_l <= free slots and every b_l = 0, where there are free slots; else sum of a_l = sum of b_l

It is solved exactly by a dynamic program over layers (moe_spac_program.py). What is published of the paper does not
give its program; ours reads "online integer optimisation that balances the lanes" as this objective, "inertial
transition" as the two things that hold a boundary back (it passes at most D experts a step, and a change has to pay for
its copies within H steps, by M steps and not the last alone), and "adaptive boundary calibration" as a boundary that
may lie between experts of one level. M, H and D are ours.

Approximated: the cache starts with the most frequent experts instead of empty slots; the link's queue holds one copy at
most. Prefill moves levels, but is not among the M steps.

Shapes: L layers, E experts, F both flat, M steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from ..policy import Kernelled, Setting, Traits
from ..types import ExpertId
from .static import most_frequent

if TYPE_CHECKING:
    from .compiled import PolicyKernels

THRESHOLD = 1  # fixed by the public code


class MoeSpacFixed(Kernelled):
    """Levels from demand counts, threshold 1.

    `up`, `down`: differences of count and level at which it moves. `depth`: prefetches that may wait for the link.
    """

    name = "moe-spac-fixed"
    traits = Traits(family="speculation")

    def __init__(self, up: int = 5, down: int = 1, depth: int = 1) -> None:
        self.up = up
        self.down = down
        self.depth = depth

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; all levels 0."""
        from .moe_spac_kernels import first_levels

        shape = setting.geometry
        self._levels = first_levels(shape.num_layers * shape.num_experts, self.up, self.down, self.depth)
        self.level_LE = self._levels.level_F.reshape(shape.num_layers, shape.num_experts)
        return most_frequent(setting)

    def kernels(self) -> PolicyKernels:
        """Misses on the CPU; levels; copies from the threshold on."""
        from .moe_spac_kernels import FIXED

        return FIXED._replace(own=(self._levels, THRESHOLD))


class MoeSpac(MoeSpacFixed):
    """Levels from demand counts, boundaries chosen online.

    `window`: steps whose demand is remembered (M). `horizon`: steps within which a copy has to pay (H). `stride`:
    experts of a layer that its boundary may pass after a step (D).
    """

    name = "moe-spac"

    def __init__(
        self, up: int = 5, down: int = 1, depth: int = 1, window: int = 8, horizon: float = 16.0, stride: int = 2
    ) -> None:
        super().__init__(up, down, depth)
        if window < 1 or not horizon > 0.0 or not 1 <= stride <= 8:
            raise InputError(
                f"moe-spac's window {window} must be at least 1 step, its horizon {horizon} above 0, its stride "
                f"{stride} 1 to 8 experts"
            )
        self.window, self.horizon, self.stride = window, float(horizon), stride

    def start(self, setting: Setting) -> Sequence[ExpertId]:
        """The most frequent experts; all levels 0, and nothing is copied before a step has been seen."""
        from .moe_spac_program import new_program

        shape = setting.geometry
        self.program = new_program(shape.num_layers, shape.num_experts, self.window, self.horizon, self.stride)
        return super().start(setting)

    def kernels(self) -> PolicyKernels:
        """Misses on the CPU; levels and seconds of what was demanded; the program, and copies by its answer."""
        from .moe_spac_online import ONLINE

        return ONLINE._replace(own=(self._levels, self.program))
