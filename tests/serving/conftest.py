"""One server for the tests of a file; its threads are gone when it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.chatting import TEMPLATE, chat_folder

from .serving import Served, lanes, serving


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> None:
    """Instead of the suite's own, after each test: a server outlives one, and `served` looks when it has ended."""


@pytest.fixture(scope="session")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    refusal = "{% if messages[0]['role'] == 'judge' %}{{ raise_exception('no judges') }}{% endif %}"
    return chat_folder(checkpoint, tmp_path_factory.mktemp("served") / "model", refusal + TEMPLATE)


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HETSCHED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        with serving(folder, most_tokens=4, body_bytes=20_000) as running:
            yield running
    assert not lanes()
