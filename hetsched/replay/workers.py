"""Workers: tasks of a study one after another here, or in processes of their own; the results are the same.

A task is sent to a process as it becomes free, so results come in any order and are put back into that of the tasks.
"""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import NamedTuple, TypeAlias

from ..errors import InputError
from .cell import Cell, CellResult
from .limits import Limit, LimitResult
from .opened import Bench
from .study import Study

Task: TypeAlias = Cell | Limit
Done: TypeAlias = Callable[[float], None]  # told how many tasks are done, in parts too


class Crash(NamedTuple):
    """A task that raised: one line on why, and where."""

    why: str
    where: str = ""


Outcome: TypeAlias = CellResult | LimitResult | Crash


def attempt(bench: Bench, task: Task, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """The task's result; a fault of a strategy is a value, so that the others go on."""
    try:
        return task.run(bench, progress)
    except Exception as error:
        text = " ".join(str(error).split())
        return Crash(
            text if isinstance(error, InputError) else f"{type(error).__name__}: {text}", traceback.format_exc()
        )


def run_here(bench: Bench, tasks: Sequence[Task], done: Done) -> list[Outcome]:
    """One after another, in this process."""
    outcomes = []
    for i, task in enumerate(tasks):
        outcomes.append(attempt(bench, task, lambda step, steps, i=i: done(i + step / steps)))  # type: ignore[misc]
        done(i + 1)
    return outcomes


def run_in_processes(study: Study, tasks: Sequence[Task], jobs: int, done: Done) -> list[Outcome]:
    """In `jobs` new processes; they end with this call, however it ends.

    A process that dies costs its task and is replaced. Raises InputError where something cannot be sent to a process.
    """
    ready = _pickled(study, tasks)
    outcomes: dict[int, Outcome] = {}
    waiting = list(range(len(tasks)))[::-1]
    workers: list[_Worker] = []
    try:
        while len(outcomes) < len(tasks):
            while waiting and len(workers) < jobs:
                workers.append(_Worker(ready[0], waiting[-1], ready[1][waiting.pop()]))
            for worker in [w for w in workers if w.pipe in wait([w.pipe for w in workers])]:
                try:
                    outcomes[worker.task] = worker.pipe.recv()
                    alive = bool(waiting)
                except EOFError:
                    outcomes[worker.task] = worker.crash()
                    alive = False
                done(len(outcomes))
                if alive:
                    worker.give(waiting[-1], ready[1][waiting.pop()])
                else:
                    worker.end()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.end()
    return [outcomes[i] for i in range(len(tasks))]


class _Worker:
    """One process and the task it is at."""

    def __init__(self, study: bytes, task: int, pickled: bytes) -> None:
        context = get_context("spawn")  # a forked child would inherit threads of numba and OR-tools in any state
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, study), name="hetsched replay", daemon=True)
        self._process.start()
        theirs.close()
        self.give(task, pickled)

    def give(self, task: int, pickled: bytes) -> None:
        self.task = task
        try:
            self.pipe.send_bytes(pickled)
        except BrokenPipeError:
            return  # it died; reading from it will say so

    def crash(self) -> Crash:
        self._process.join()
        return Crash(f"the worker process ended with exit code {self._process.exitcode}")

    def end(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def _work(pipe: Connection, study: bytes) -> None:
    """A worker's life: tasks until the other end is closed. Ctrl-C is for the process that gives them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench: Bench | None = None
    while True:
        try:
            pickled = pipe.recv_bytes()
        except EOFError:
            return
        bench = bench or Bench(pickle.loads(study))
        pipe.send(attempt(bench, pickle.loads(pickled)))


def _pickled(study: Study, tasks: Sequence[Task]) -> tuple[bytes, list[bytes]]:
    return pickle.dumps(study), [_pickled_task(task) for task in tasks]


def _pickled_task(task: Task) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:
        what = task.strategy.label if isinstance(task, Cell) else "a bound"
        raise InputError(
            f"{what} cannot be sent to a worker process ({error}); define it at the top of a module, or use 1 job"
        ) from error
