"""Unfinished work on a trace: one process at a time, and nothing made up for what is missing or damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hetsched.errors import InputError
from hetsched.integrations.recording import record
from hetsched.traces.content import BLOCK_BYTES, WHOLE_BYTES, model_digest
from hetsched.traces.partial import read_journal, write_journal
from hetsched.traces.trace import load_trace
from hetsched.traces.writer import require_resumable
from tests.conftest import tiny_moe
from tests.traces.made import made, same
from tests.traces.test_writer import append, resumable

GREEDY = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
HOLD = """
import sys, time
from pathlib import Path
from hetsched.traces.writer import TraceWriter
writer = TraceWriter(Path(sys.argv[1]), 8, (3, 2), arguments={"seed": 1})
print("mine", flush=True)
time.sleep(600)
"""


def half_done(path: Path) -> Path:
    """Unfinished work of ten tokens and one sequence; its folder."""
    with resumable(path, seed=1) as dying:
        append(dying, made(), slice(0, 10))
        dying.commit(progress=1)
    return path.with_name(f"{path.name}.partial")


def test_two_writers_of_one_path_are_one_too_many(tmp_path: Path) -> None:
    """In this process and from another; the first one's work is untouched, and a killed owner is none."""
    path = tmp_path / "t.npz"
    with resumable(path, seed=1) as first:
        append(first, made(), slice(0, 10))
        for second in (lambda: resumable(path, seed=1), lambda: require_resumable(path)):
            with pytest.raises(InputError, match="being written by another process"):
                second()
        append(first, made(), slice(10, 40))
        first.finish()
    assert same(load_trace(path), made())
    assert os.listdir(tmp_path) == ["t.npz"]
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(InputError, match="another process"):
            resumable(path, seed=1)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with resumable(path, seed=1) as heir:
        assert heir.tokens == 0


@pytest.mark.parametrize("name", ["experts", "sequence", "phase"])
@pytest.mark.parametrize("how", ["short", "gone"])
def test_a_missing_or_short_array_is_not_padded(tmp_path: Path, name: str, how: str) -> None:
    """Neither when work is resumed nor when it is finished: the file is named, and what to do."""
    folder = half_done(tmp_path / "t.npz")
    array = folder / name
    array.write_bytes(array.read_bytes()[:-1]) if how == "short" else array.unlink()
    with pytest.raises(InputError, match=rf"t\.npz\.partial is damaged: its file '{name}'.*delete that folder"):
        resumable(tmp_path / "t.npz", seed=1)
    writer = resumable(tmp_path / "u.npz", seed=1)
    append(writer, made(), slice(0, 10))
    writer.commit(progress=1)
    other = tmp_path / "u.npz.partial" / name
    os.truncate(other, 3) if how == "short" else other.unlink()
    with pytest.raises(InputError, match=f"its file '{name}'"), writer:
        writer.finish()
    assert not (tmp_path / "u.npz").exists()


@pytest.mark.parametrize(
    "journal", ["", "{", "[]", "{}", '{"tokens": "10", "progress": 1}', '{"tokens": -1, "progress": 0}', "[" * 99_999]
)
def test_a_damaged_journal_is_named(tmp_path: Path, journal: str) -> None:
    folder = half_done(tmp_path / "t.npz")
    (folder / "journal.json").write_text(journal)
    for look in (lambda: resumable(tmp_path / "t.npz", seed=1), lambda: require_resumable(tmp_path / "t.npz")):
        with pytest.raises(InputError, match=r"t\.npz\.partial is damaged: its journal\.json .*delete that folder"):
            look()


@pytest.mark.parametrize(
    "change", ['"seed": 1>"seed": 2', '"tokens": 10>"tokens": 9', '"num_experts": 8>"num_experts": 9']
)
def test_a_journal_that_says_other_things_than_were_written_is_damaged(tmp_path: Path, change: str) -> None:
    path = half_done(tmp_path / "t.npz") / "journal.json"
    old, new = change.split(">")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"journal\.json is not as it was written; delete that folder"):
        require_resumable(tmp_path / "t.npz")


def test_what_is_wrong_with_unfinished_work_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    """A figure of an array that is another, other arguments; bytes after the last commit are nobody's business."""
    path = tmp_path / "t.npz"
    array = half_done(path) / "experts"
    data = array.read_bytes()
    array.write_bytes(data + b"half a token")
    require_resumable(path, {"seed": 1})
    with pytest.raises(InputError, match="of other arguments"):
        require_resumable(path, {"seed": 2})
    array.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(InputError, match="its file 'experts' does not hold what was written"):
        require_resumable(path, {"seed": 1})


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    folder = half_done(tmp_path / "t.npz")
    (folder / "lock").unlink()
    (folder / "lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="its lock cannot be opened"):
        require_resumable(tmp_path / "t.npz")
    assert not (tmp_path / "nowhere").exists()


def test_a_journal_that_counts_otherwise_than_the_arrays_is_refused(tmp_path: Path) -> None:
    """Else a recording would end early, or twice record a sequence."""
    prompts, path = [torch.tensor([[3, 4, 5]])] * 3, tmp_path / "t.npz"
    model = tiny_moe()
    generate, calls = model.generate, []

    def dies(ids: torch.Tensor, **options: Any) -> Any:
        calls.append(ids)
        if len(calls) == 2:
            raise MemoryError
        return generate(ids, **options)

    model.generate = dies
    with pytest.raises(MemoryError):
        record(model, prompts, path, {"a": 1}, generate=GREEDY)
    folder = tmp_path / "t.npz.partial"
    journal = read_journal(folder)
    assert journal is not None
    write_journal(folder, {**journal, "progress": 3})
    with pytest.raises(InputError, match="counts 3 sequences, its arrays hold 1"):
        record(model, prompts, path, {"a": 1}, generate=GREEDY)
    assert not path.exists()


def test_a_models_digest_is_that_of_its_contents(tmp_path: Path) -> None:
    """Config, tokenizer and weights count, wherever in a large file a block differs; a README and dates do not."""
    size = WHOLE_BYTES + 3 * BLOCK_BYTES
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(size))
    first = model_digest(tmp_path)
    (tmp_path / "README.md").write_text("new words")
    os.utime(weights, (1, 1))
    assert model_digest(tmp_path) == first
    for start in (0, size // 2, size - 1):
        data = bytearray(size)
        data[start : start + 5 * BLOCK_BYTES] = b"x" * len(data[start : start + 5 * BLOCK_BYTES])
        weights.write_bytes(data)
        assert model_digest(tmp_path) != first
    weights.write_bytes(bytes(size + 1))
    assert model_digest(tmp_path) != first
    weights.write_bytes(bytes(size))
    assert model_digest(tmp_path) == first
    (tmp_path / "tokenizer.json").write_text("{}")
    assert model_digest(tmp_path) != first


def _folder_with_a_file(place: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").write_text("mine")


def _link(place: Path) -> None:
    target = place.with_name("elsewhere")
    target.mkdir()
    place.symlink_to(target)


@pytest.mark.parametrize(
    "make",
    [_folder_with_a_file, _link, lambda place: place.write_text("mine"), lambda place: place.symlink_to("nowhere")],
    ids=["folder", "link", "file", "link to nothing"],
)
def test_what_is_not_ours_is_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A folder, file or link of the user's own that has the name of unfinished work: refused, nothing written."""
    path = tmp_path / "t.npz"
    make(tmp_path / "t.npz.partial")
    before = sorted(tmp_path.rglob("*"))
    for begin in (lambda: resumable(path, seed=1), lambda: require_resumable(path)):
        with pytest.raises(InputError, match=r"t\.npz\.partial, where unfinished work would be, is .*choose another"):
            begin()
    assert sorted(tmp_path.rglob("*")) == before
