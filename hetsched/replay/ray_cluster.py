"""The same tasks on a Ray cluster."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from ..errors import InputError, MissingDependencyError
from .opened import Bench
from .study import Study
from .workers import Crash, Done, Outcome, Task, attempt


def run_on_ray(study: Study, tasks: Sequence[Task], address: str, done: Done) -> list[Outcome]:
    """As run_in_processes, each task a remote one. `address`: "auto" for the cluster of this machine, or its address.

    The trace travels with the study, so that nodes need not see its file; hetsched must be installed on them. Raises
    MissingDependencyError without Ray, InputError where no cluster answers.
    """
    ray = _ray()
    bench = Bench(study)
    sent = replace(study, source=bench.whole, fit_source=bench.history if study.fit_source is not None else None)
    try:
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster at {address!r}: {error}; start one with: ray start --head") from error
    try:
        shared = ray.put(pickle.dumps(sent))
        remote = ray.remote(_remote_task)
        waiting = [remote.remote(shared, pickle.dumps(task)) for task in tasks]
        order = {reference: i for i, reference in enumerate(waiting)}
        outcomes: dict[int, Outcome] = {}
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1)
            for reference in ready:
                outcomes[order[reference]] = _result(ray, reference)
            done(len(outcomes))
        return [outcomes[i] for i in range(len(tasks))]
    finally:
        ray.shutdown()


def _result(ray: Any, reference: Any) -> Outcome:
    try:
        result: Outcome = ray.get(reference)
    except Exception as error:  # a node that was lost costs its task
        return Crash(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return result


def _remote_task(study: bytes, task: bytes) -> Outcome:
    return attempt(_bench(study), pickle.loads(task))


_opened: dict[int, Bench] = {}


def _bench(study: bytes) -> Bench:
    """The study opened; a worker of the cluster keeps the last one."""
    key = hash(study)
    if key not in _opened:
        _opened.clear()
        _opened[key] = Bench(pickle.loads(study))
    return _opened[key]


def _ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ray", "a sweep on a cluster", "pip install 'hetsched[ray]'") from error
