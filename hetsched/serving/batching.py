"""Batching: one model's running batch, which requests join and leave between two steps.

By transformers' continuous batching, in a thread of its own, whose forward passes run as any other: attached to
hetsched, the experts are its. A step that fails ends that thread with all that is in the batch, and the next request
begins a new one; before a step nothing of one request can fail another, for prompts are checked and draws guarded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.continuous_api import OutputRouter

from ..errors import InputError
from .draws import Draw, Draws

PAGE_TOKENS = 64
MOST_TOKENS = 512  # of one forward pass; longer prompts are read in parts
CLOSE_S = 60.0

Told = Callable[[Sequence[int], bool, str | None], None]  # all new tokens so far, whether they are all, what failed


class Batching:
    """`parallel`: requests at most in the batch, of `context` tokens each, for which memory is taken at once."""

    def __init__(self, model: Any, parallel: int, context: int) -> None:
        if not hasattr(model, "init_continuous_batching"):
            raise InputError(f"{type(model).__name__} has no continuous batching in transformers; use `hetsched run`")
        self.model = model
        self._parallel, self._context = parallel, context
        self._router = _Router()
        self._lock = threading.Lock()
        self._manager = self._begun()

    def submit(self, name: str, ids: Sequence[int], most: int, eos: list[int], draw: Draw | None, told: Told) -> None:
        """Let a request join. `told` is called in the batch's thread, with an error once at most, and last."""
        with self._lock:
            if not self._accepts():
                self._end(self._manager)
                self._manager = self._begun()
            self._router.told[name] = told
            more = {} if draw is None else {"draw": draw}
            manager = self._manager
            manager.add_request(list(ids), name, max_new_tokens=most, streaming=True, eos_token_id=eos, **more)
            if not self._accepts():  # it ended meanwhile, and may not have seen this one
                self._router.fail(name, "the batch ended")

    def cancel(self, name: str) -> None:
        """Let a request leave before the next step, if it is still there. `told` is called no more."""
        if self._router.told.pop(name, None) is not None:
            self._manager.cancel_request(name)

    def check(self) -> None:
        """One token, before anybody asks for one. Raises InputError for a model whose requests cannot share a batch."""
        done, errors = threading.Event(), list[str]()

        def told(_tokens: Sequence[int], finished: bool, error: str | None) -> None:
            errors.extend(filter(None, [error]))
            if finished:
                done.set()

        self.submit("check", [0], 1, [], None, told)
        done.wait()
        if errors:
            what = f"{type(self.model).__name__} cannot be served: {errors[0]:.300}"
            raise InputError(f"{what}; transformers' continuous batching refuses it, so use `hetsched run`")

    def close(self) -> None:
        """End after the step under way; requests that are still there are told that they failed."""
        with self._lock:
            self._end(self._manager)

    def _accepts(self) -> bool:
        running: bool = self._manager.is_running()
        return running and self._manager.background_thread_status.can_accept_new_requests() is None

    def _begun(self) -> Any:
        pages = self._parallel * (-(-self._context // PAGE_TOKENS) + 1)
        batching = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=pages,
            max_batch_tokens=max(MOST_TOKENS, self._parallel),
            max_requests_per_batch=self._parallel,
            use_cuda_graph=False,  # the scheduler decides on the host, between kernels
            use_async_batching=False,
            auto_switch_to_flash=False,
        )
        plain = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
        manager = self.model.init_continuous_batching(plain, batching)
        manager.logit_processor = ContinuousBatchingLogitsProcessorList([Draws()])
        manager.logit_processor.tensors_required = 1
        manager.output_router = self._router
        manager.start()
        return manager

    def _end(self, manager: Any) -> None:
        manager.stop(block=True, timeout=CLOSE_S, hard_stop=True)


class _Router(OutputRouter):  # type: ignore[misc]
    """Hands a request's tokens to whoever asked for them, and those of nobody to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, Told] = {}

    def deliver(self, output: Any) -> None:
        """Called by the batch with one request's state."""
        finished = output.is_finished()
        told = self.told.pop(output.request_id, None) if finished else self.told.get(output.request_id)
        if told is not None:
            told(output.generated_tokens, finished, output.error)

    def deliver_batch(self, outputs: list[Any]) -> None:
        """Called by the batch after a step."""
        for output in outputs:
            self.deliver(output)

    def fail(self, name: str, error: str) -> None:
        """Tell one request, if nobody has yet."""
        if (told := self.told.pop(name, None)) is not None:
            told([], True, error)
