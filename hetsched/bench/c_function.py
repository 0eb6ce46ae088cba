"""What a layer costs where no Python is called: the step as a C function, from router ids to slots and lanes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hetsched.deciders.c_step import CStep
from hetsched.deciders.compiled import CompiledDecider
from hetsched.deciders.mail import CopyServer, new_mail, new_queue
from hetsched.errors import InputError
from hetsched.jit.c_call import CFunction
from hetsched.scheduler import Scheduler
from hetsched.types import Phase


def c_function_seconds(
    scheduler: Scheduler, ids_L: Sequence[Sequence[Any]], clock: Callable[[], float] = time.thread_time
) -> dict[str, float | None]:
    """Median processor seconds of `step` and of `ahead` a layer; None where the policy's step is no C function.

    `scheduler`: a fresh one, which nobody else may use afterwards. `ids_L`: of each step the router ids of its layers,
    [1, K] each. Every copy has arrived by the next call.
    """
    decider, shape = scheduler.decider, scheduler.geometry
    mail, queue = new_mail(1, shape.top_k, shape.num_experts), new_queue(len(scheduler.board.free_S))
    nothing: dict[str, float | None] = {"c_function_s": None, "c_function_ahead_s": None}
    if not isinstance(decider, CompiledDecider):
        return nothing
    try:
        step = CStep(
            decider.calls, scheduler.arrays, scheduler.seconds, mail, queue, weighs=scheduler.traits.uses_weights
        )
    except InputError:
        return nothing
    server, took_s, beside_s = CopyServer(queue), [], []
    for ids in ids_L:
        for layer, ids_1K in enumerate(ids):
            mail.asked_4[:] = layer, 1, Phase.DECODE, 0
            mail.ids_TK[:] = ids_1K
            took_s.append(_timed(step.step, clock))
            beside_s.append(_timed(step.ahead, clock))
            while (taken := server.take()) is not None:
                server.end(taken[0])
    return {"c_function_s": float(np.median(took_s)), "c_function_ahead_s": float(np.median(beside_s))}


def _timed(function: CFunction, clock: Callable[[], float]) -> float:
    begin_s = clock()
    function()
    return clock() - begin_s
