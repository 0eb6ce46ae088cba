"""A forecaster as kernels have it: forecasts in arrays that last, and whatever keeps them up to date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..forecast import Forecaster
from ..types import Demand, Float32Array, FloatArray
from .compiled import PolicyKernels, nothing


class Learning(NamedTuple):
    """`next_LE` and `demand_LE` as Forecaster has them, always the same two arrays; the rest as in PolicyKernels."""

    next_LE: FloatArray
    demand_LE: FloatArray
    name: str = ""
    sources: tuple[str, ...] = ()
    learn: Callable[..., None] = nothing
    known: Any = ()
    observe: Callable[[Demand], None] | None = None
    foresee: Callable[[Float32Array], None] | None = None

    def taught(self, kernels: PolicyKernels) -> PolicyKernels:
        """The kernels of a policy that learns so."""
        return kernels._replace(
            name=f"{kernels.name} {self.name}".strip(),
            sources=(*kernels.sources, *self.sources),
            learn=self.learn,
            known=self.known,
            observe=self.observe,
            foresee=self.foresee,
        )


def learning_of(forecaster: Forecaster) -> Learning:
    """How a started forecaster learns: by its `kernel()`, or in Python where it has none.

    kernel() -> name, sources, learn (policies/compiled.py) and the arrays that it is called with; the forecasts must be
    among these, since nobody asks for them again. In Python they are asked for after every layer, as the protocol says.
    """
    kernel = getattr(forecaster, "kernel", None)
    if kernel is not None:
        name, sources, learn, known = kernel()
        return Learning(forecaster.next_LE(), forecaster.demand_LE(), name, sources, learn, known)
    next_LE, demand_LE = forecaster.next_LE().copy(), forecaster.demand_LE().copy()

    def observe(demand: Demand) -> None:
        forecaster.observe(demand)
        next_LE[:], demand_LE[:] = forecaster.next_LE(), forecaster.demand_LE()

    told = getattr(forecaster, "foresee", None)
    if told is None:
        return Learning(next_LE, demand_LE, observe=observe)

    def foresee(draft_DLE: Float32Array) -> None:
        told(draft_DLE)
        next_LE[:] = forecaster.next_LE()

    return Learning(next_LE, demand_LE, observe=observe, foresee=foresee)
