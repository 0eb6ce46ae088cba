"""CStep: a layer from router ids to slots, lanes and copies as C functions, which nothing in Python need call.

A stream calls them as host nodes (cudaLaunchHostFunc, or such a node of a graph) with a pointer to their words: `step`
between the copy of the ids to the mail and the grouped kernel that reads the mail's rows; `ahead` on a stream beside
the lanes. Neither takes the interpreter's lock, calls the device, looks at a clock or at a file, or waits for anybody.
Whoever calls them does so one at a time, `ahead` after its layer's `step`.
"""

from __future__ import annotations

from ..board import LAYER, LAYERS, STEP, Arrays, open_board
from ..board.seconds import Seconds
from ..errors import InputError
from ..jit.c_call import CFunction
from ..policies.compiled import CompiledPolicy
from .c_step_kernels import letters
from .mail import CopyQueue, Mail


class CStep:
    """The functions `step` and `ahead` of one board, its policy's calls, a mail and a queue.

    From then on they are the board's only callers. A decision that the contract refuses is replaced by a plain one:
    the mail says so. Raises InputError for a policy that needs Python, or router weights to decide.
    """

    def __init__(
        self,
        calls: CompiledPolicy,
        arrays: Arrays,
        seconds: Seconds,
        mail: Mail,
        queue: CopyQueue,
        weighs: bool = False,
    ) -> None:
        if not calls.is_whole or weighs:
            needs = "router weights" if weighs else "a solver or forecaster in Python"
            raise InputError(f"policy {calls.kernels.name} needs {needs}, so its step is no C function; choose another")
        at = open_board(*arrays).at
        at[LAYER], at[STEP] = at[LAYERS], -1
        self.mail, self.queue = mail, queue
        kernels, seconds_4T = calls.kernels, seconds.table(len(mail.ids_TK))
        given, sent = (*arrays, seconds_4T, kernels.own), (tuple(mail), tuple(queue))
        self.step = CFunction(
            (letters.receive, (*arrays, *sent)),
            (calls.step, given),
            (letters.deliver, (*arrays, seconds_4T, *sent)),
        )
        self.ahead = CFunction(
            (letters.look, (*arrays, sent[1])),
            (calls.ahead, (*given, kernels.known, True, True)),
            (letters.send_ahead, (*arrays, sent[1])),
        )
