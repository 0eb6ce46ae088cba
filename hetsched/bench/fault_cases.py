"""The faults that a run goes on through, each with what is promised; then those that end in an error or a wait."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator

import torch

from ..accelerators.base import LaneError, OutOfDeviceMemory
from ..accelerators.emulated.device import EmulatedAccelerator
from ..errors import InputError
from ..integrations.transformers import attach
from ..machine.gallery import machine
from ..testing import broken_plugins as plugins
from ..testing import faults
from ..testing.faults import Dice, InterruptAt
from .fault_ground import GPU_MEMORY, HARDWARE, FaultRow, Ground, with_threads

SETTLING, OWN = "hetsched", "on-demand-lru"  # one asks a solver, one fetches what it misses

# fault, what is promised, rate of each kind, policy
GOES_ON: tuple[tuple[str, str, dict[str, float], str], ...] = (
    ("a copy fails", "that expert on the CPU lane, its slot freed", {faults.COPY_FAILS: 0.1}, OWN),
    ("a copy is refused", "that expert on the CPU lane, its slot freed", {faults.COPY_REFUSED: 0.1}, OWN),
    ("a copy never ends", "cancelled when overdue, its experts on the CPU lane", {faults.COPY_HANGS: 0.01}, OWN),
    ("a GPU kernel fails", "that expert on the CPU lane", {faults.GPU_RAISES: 0.1}, OWN),
    ("a GPU kernel finds no memory", "that expert on the CPU lane", {faults.GPU_MEMORY: 0.1}, OWN),
    ("a CPU kernel fails", "once more", {faults.CPU_RAISES: 0.005}, SETTLING),
    (
        "the policy raises",
        "a plain decision: residents on the GPU, the rest on the CPU",
        {plugins.PLAN_RAISES: 0.1},
        OWN,
    ),
    (
        "the policy breaks its contract",
        "a plain decision, and what it had moved is put right",
        {plugins.PLAN_NONSENSE: 0.1},
        OWN,
    ),
    ("the forecaster raises", "that layer is not learned", {plugins.LEARNING_RAISES: 0.1}, SETTLING),
    ("prefetching raises", "nothing is prefetched in that layer", {plugins.PREFETCH_RAISES: 0.1}, SETTLING),
    ("prefetching breaks its contract", "copies up to the bad one", {plugins.PREFETCH_NONSENSE: 0.1}, SETTLING),
    ("the solver raises", "misses on the CPU", {plugins.SOLVER_RAISES: 0.5}, SETTLING),
    (
        "the solver overruns its budget",
        "misses on the CPU; it rests after three in a row",
        {plugins.SOLVER_LATE: 1.0},
        SETTLING,
    ),
    ("the solver returns nonsense", "misses on the CPU", {plugins.SOLVER_NONSENSE: 0.5}, SETTLING),
)


def cases(ground: Ground) -> Iterator[tuple[str, Callable[[], FaultRow]]]:
    """Every fault by name, and how to inject it."""
    for fault, outcome, rates, policy in GOES_ON:
        yield fault, lambda f=fault, o=outcome, r=rates, p=policy: ground.row(f, o, r, p)  # type: ignore[misc]
    for case in (
        twice_on_the_cpu,
        pool,
        fewer_slots,
        dense,
        summing,
        pinned,
        cancellation,
        second_attach,
        two_threads,
        forked,
    ):
        yield (case.__doc__ or "").partition(":")[0], lambda c=case: c(ground)  # type: ignore[misc]


def _row(ground: Ground, name: Callable[..., FaultRow], injected: int, survived: int, lost: int) -> FaultRow:
    fault, _, outcome = (name.__doc__ or "").partition(": ")
    return FaultRow(fault, injected, survived, lost, with_threads(outcome.rstrip(".")))


def twice_on_the_cpu(ground: Ground) -> FaultRow:
    """a CPU kernel fails twice: LaneError with its cause; the next call is as if nothing had been."""
    dice, survived, lost = Dice({faults.CPU_RAISES: 1.0}), 0, 0
    with ground.attached(dice, "cpu-only") as handle:
        try:
            ground.generate(0)
        except LaneError as error:
            survived += isinstance(error.__cause__, faults.InjectedFault)
        dice.stop()
        lost = ground.lost(0, ground.generate(0))
        handle.engine.check()
    return _row(ground, twice_on_the_cpu, 1, survived, lost)


def pool(ground: Ground) -> FaultRow:
    """the device has no room for the slots: one line at attach that names gpu_memory; a smaller one attaches."""
    survived, lost = 0, 0
    for share in (GPU_MEMORY, "5%"):
        small = EmulatedAccelerator(machine(HARDWARE), capacity_bytes=20_000, time_scale=1.0)
        try:
            with ground.attached(Dice({}), inner=small, gpu_memory=share):
                lost = ground.lost(0, ground.generate(0))
        except InputError as error:
            survived += share == GPU_MEMORY and "gpu_memory" in str(error) and "\n" not in str(error)
    return _row(ground, pool, 1, survived, lost)


def fewer_slots(ground: Ground) -> FaultRow:
    """the device has less room than was planned, and nobody named gpu_memory: fewer slots, one warning."""
    small = EmulatedAccelerator(machine(HARDWARE), capacity_bytes=50_000, time_scale=1.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with ground.attached(Dice({}), inner=small, gpu_memory=None) as handle:
            lost = ground.lost(0, ground.generate(0))
            handle.engine.check()
            survived = bool(handle.scheduler.stats.faults.get("device memory short"))
    survived &= sum("going on with these" in str(warning.message) for warning in said) == 1
    return _row(ground, fewer_slots, 1, int(survived), lost)


def dense(ground: Ground, times: int = 3) -> FaultRow:
    """the dense part finds no memory: slots are given back, the cache is put back, and the pass is made again."""
    left, calls = times, 0

    def fails(*_: object) -> None:
        nonlocal left, calls
        calls += 1
        if left and calls % 3 == 0:
            left -= 1
            raise torch.OutOfMemoryError("no memory for the attention of layer 1")

    hook = ground.model.model.layers[1].self_attn.register_forward_hook(fails)
    try:
        with ground.attached(Dice({})) as handle:
            lost = ground.lost(0, ground.generate(0))
            handle.engine.check()
            survived = handle.scheduler.stats.faults.get("device memory short", 0)
    finally:
        hook.remove()
    return _row(ground, dense, times - left, survived, lost)


def summing(ground: Ground, times: int = 3) -> FaultRow:
    """the engine's own allocations on the device fail: slots are given back, and the layer is computed again."""
    with ground.attached(Dice({})) as handle:
        executor, left, calls = handle.engine._executor, times, 0  # type: ignore[union-attr]
        finish = executor.finish

        def fails(*given: float) -> object:
            nonlocal left, calls
            calls += 1
            if left and calls % 10 == 0:
                left -= 1
                raise OutOfDeviceMemory("no memory for the sum")
            return finish(*given)

        executor.finish = fails  # type: ignore[method-assign]
        lost = ground.lost(0, ground.generate(0))
        handle.engine.check()
        survived = handle.scheduler.stats.faults.get("device memory short", 0)
    return _row(ground, summing, times - left, survived, lost)


class _Unpinnable(EmulatedAccelerator):
    def pin(self, memory: object) -> bool:
        """Refuse, as a driver does when the host has no more."""
        raise RuntimeError("cudaHostRegister: out of memory")


def pinned(ground: Ground) -> FaultRow:
    """the host has no more pinned memory: copies from pageable memory, counted."""
    with ground.attached(Dice({}), inner=_Unpinnable(machine(HARDWARE), time_scale=1.0)) as handle:
        refused = handle.scheduler.stats.faults.get("pinned memory refused", 0)
        lost = ground.lost(0, ground.generate(0))
    return _row(ground, pinned, refused, refused, lost)


def cancellation(ground: Ground, tokens: int = 2, every: int = 1, policy: str = OWN) -> FaultRow:
    """Ctrl-C at every call of accelerator and scheduler: nothing stays half done, the next call is as the first."""
    interrupt, survived, lost, injected = InterruptAt(), 0, 0, 0
    with ground.attached(Dice({}), policy, before_call=interrupt) as handle:
        interrupt.surround(handle.scheduler, ("demand", "routed_demand", "step", "prefetch", "observe"))
        interrupt.begin(None)
        ground.generate(0, tokens)
        at, last = 1, interrupt.count
        while at <= last:
            interrupt.begin(at)
            try:
                ground.generate(at, tokens)
            except KeyboardInterrupt:
                survived += 1
            injected += interrupt.count >= at  # another prompt may make fewer calls
            interrupt.begin(None)
            handle.engine.check()
            lost += ground.lost(at, ground.generate(at, tokens), tokens)
            at += every
    return _row(ground, cancellation, injected, survived, lost)


def second_attach(ground: Ground) -> FaultRow:
    """a second attach: one line; the first goes on."""
    survived = 0
    with ground.attached(Dice({})):
        try:
            attach(ground.model, hardware=HARDWARE, gpu_memory=GPU_MEMORY)
        except InputError as error:
            survived += "attached already" in str(error)
        lost = ground.lost(0, ground.generate(0))
    return _row(ground, second_attach, 1, survived, lost)


def two_threads(ground: Ground, threads: int = 3) -> FaultRow:
    """generation from several threads: they take turns, a layer at a time, and each gets its own tokens."""
    lost: list[int] = []
    with ground.attached(Dice({}), SETTLING) as handle:

        def generate(i: int) -> None:
            lost.append(ground.lost(i, ground.generate(i)))

        running = [threading.Thread(target=generate, args=(i,)) for i in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        handle.engine.check()
    missing = (threads - len(lost)) * ground.tokens
    return _row(ground, two_threads, threads, len(lost), sum(lost) + missing)


def forked(ground: Ground) -> FaultRow:
    """fork: one line at the child's first use; the parent goes on."""
    if not hasattr(os, "fork"):
        return FaultRow("fork", 0, 0, 0, "this system has no fork")
    with ground.attached(Dice({})) as handle:
        lost = ground.lost(0, ground.generate(0))
        child = os.fork()
        if child == 0:
            os._exit(_child(ground))
        _, status = os.waitpid(child, 0)
        lost += ground.lost(1, ground.generate(1))
        handle.engine.check()
    return _row(ground, forked, 1, int(os.waitstatus_to_exitcode(status) == 0), lost)


def _child(ground: Ground) -> int:
    """The exit code of the child: 0 when its first use of the model is the error that it should be."""
    try:
        ground.generate(0)
    except InputError as error:
        return int("fork" not in str(error) or "\n" in str(error))
    except BaseException:
        return 2
    return 3
