"""What tests share: a tiny random Mixture-of-Experts model, in memory and as a checkpoint folder with a tokenizer."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from hetsched.machine.host_cost import KnownHost, keep_host
from hetsched.machine.profile import HostCost
from hetsched.testing.models import tiny_moe as tiny_moe

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Compiled sources are kept, as compiled kernels are: else each of a hundred commands would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No example is late: the first may compile a kernel, and the machine may be busy. What hangs, pytest's timeout ends.
settings.register_profile("hetsched", deadline=None, print_blob=True)
settings.load_profile("hetsched")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end: no collection of garbage looks through it, now or later."""
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what this machine's user has measured or built, nor writes there."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("HETSCHED_CACHE", str(cache))
    if not cache.exists():  # what the engine costs is known, so that not every replay measures it
        keep_host(KnownHost(HostCost(4e-4, 3e-4, 6e-4), "made up for tests", date.today().isoformat()))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Every test ends with the lane threads it began with: none."""
    import threading

    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("hetsched-")]
    assert not left, f"threads left running: {left}"


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Also where the tests were started in the background, whose shell lets SIGINT be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def model() -> Any:
    return tiny_moe()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an ordinary checkpoint folder with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-moe")
    tiny_moe().save_pretrained(folder)
    words = ["<pad>", "<s>", "</s>", "<unk>", "the", "sea", "was", "calm", *(f"word{i}" for i in range(120))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return folder
