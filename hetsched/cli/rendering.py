"""A chat template is a program of whoever made the model: it is rendered within processor time, memory and a length.

Jinja's sandbox bounds a loop, but neither loops within loops nor a text that is doubled. The main thread alone can be
bounded in time, and in memory on systems that tell how much a process has.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hetsched.errors import InputError
from hetsched.machine.sizes import show_bytes

MOST_S = 20.0  # of a processor
MOST_BYTES = 512 << 20
MOST_CHARACTERS = 32 << 20  # longer than any context
FIX = "correct the template"


def check_rendering(tokenizer: Any, messages: Sequence[dict[str, str]]) -> None:
    """Raise InputError for a chat whose text takes too long, too much memory, or is too long to be read by a model."""
    with _in_time(), _in_memory():
        text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"this model's chat template makes {len(text):,} characters of the prompt; {FIX}")


def check_template(tokenizer: Any) -> None:
    """The same for a short chat, before anybody has asked; a template may well refuse that one."""
    try:
        check_rendering(tokenizer, [{"role": "user", "content": "Hello"}])
    except InputError:
        raise
    except Exception:  # it is told to whoever asks
        return


@contextmanager
def _in_time() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise InputError(f"this model's chat template is at work for more than {MOST_S:g} s; {FIX}")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _in_memory() -> Iterator[None]:
    sizes = Path("/proc/self/statm")
    if threading.current_thread() is not threading.main_thread() or not sizes.exists():
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = int(sizes.read_text().split()[0]) * resource.getpagesize() + MOST_BYTES
    soft = most if limits[0] == resource.RLIM_INFINITY else min(most, limits[0])
    resource.setrlimit(resource.RLIMIT_AS, (soft, limits[1]))
    try:
        yield
    except MemoryError as error:
        raise InputError(f"this model's chat template wants more than {show_bytes(MOST_BYTES)}; {FIX}") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
