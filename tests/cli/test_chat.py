"""`run --chat`: every line is a question, the history stays within the context, and Ctrl-C ends an answer, then all."""

from __future__ import annotations

import io
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hetsched.cli import chatting, main, rendering
from hetsched.cli.conversation import Conversation, Remembered
from hetsched.errors import InputError
from hetsched.testing.models import tiny_moe
from tests.cli.chatting import ASSISTANT, MACHINE, SYSTEM, USER, chat_folder, configure, expected

TOKENS = 5


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_folder(checkpoint, tmp_path_factory.mktemp("chat") / "model")


@pytest.fixture
def talk(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Callable[..., tuple[list[str], str]]:
    """Chats through a pipe: the answers, one a line, and standard error."""

    def talked(text: str, *more: str) -> tuple[list[str], str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        argv = ["run", "--model", str(folder), "--chat", "--max-new-tokens", str(TOKENS), *MACHINE, *more]
        assert main(argv) == 0
        out, err = capsys.readouterr()
        return out.splitlines(), err

    return talked


def test_each_answer_follows_from_all_before(talk: Callable[..., Any], folder: Path) -> None:
    """Blank lines ask nothing; what comes after /quit is not read."""
    answers, err = talk("the sea\n\n  was calm \n/quit\nword7\n", "--system", "word9")
    begin = f"{SYSTEM} word9 {USER} the sea {ASSISTANT}"
    first = expected(folder, begin, TOKENS)
    second = expected(folder, f"{begin} {first} {USER} was calm {ASSISTANT}", TOKENS)
    assert [answer.split() for answer in answers] == [first.split(), second.split()]
    assert f"{2 * TOKENS} tokens in" in err
    assert err.count(f"stopped at --max-new-tokens {TOKENS}") == 2


def test_a_prompt_is_the_first_question_and_the_last_line_may_lack_its_end(talk: Callable[..., Any]) -> None:
    answers, _ = talk("was calm", "--prompt", "the sea")
    assert answers == talk("the sea\nwas calm\n")[0]
    assert len(answers) == 2


def test_nothing_asked_is_nothing_answered(talk: Callable[..., Any]) -> None:
    answers, err = talk("")
    assert answers == []
    assert "0 tokens in" in err


def test_a_chat_that_samples_is_repeated_by_its_seed(talk: Callable[..., Any]) -> None:
    chats = [talk("the sea\nthe sea\n", "--temperature", "9", "--seed", seed)[0] for seed in ("3", "3", "4")]
    assert chats[0] == chats[1] != chats[2]


def test_a_question_longer_than_the_context_is_refused_and_the_chat_goes_on(talk: Callable[..., Any]) -> None:
    answers, err = talk(f"{'sea ' * 40}\nthe sea\n", "--context", "24")
    assert answers == talk("the sea\n")[0]
    assert "hetsched: this takes 42 tokens and the context has 24: write less" in err


@pytest.mark.parametrize("verb", [["run", "--prompt", "the sea"], ["serve", "--port", "0"]])
@pytest.mark.parametrize("turns", ["'x' * 10**8", "range(10**5)"])
def test_a_template_without_an_end_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    tmp_path: Path,
    turns: str,
    verb: list[str],
) -> None:
    """Loops within loops, of which each is short enough for jinja's sandbox; a server looks before anybody asks."""
    endless = f"{{% for a in {turns} %}}{{% for b in range(10**5) %}}{{% endfor %}}{{% endfor %}}"
    folder = chat_folder(checkpoint, tmp_path / "model", endless)
    monkeypatch.setattr(rendering, "MOST_S", 0.2)
    before = signal.getsignal(signal.SIGPROF)
    assert main([*verb, "--model", str(folder), *MACHINE]) == 2
    assert "chat template is at work for more than 0.2 s; correct the template\n" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGPROF) is before


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% set a = namespace(b='x') %}{% for c in range(99) %}{% set a.b = a.b + a.b %}{% endfor %}",
            "wants more than 512.0 MiB",
        ),
        ("{{ 'x' * 10**12 }}", "wants more than 512.0 MiB"),
        ("{{ 'x ' * (2 * 10**7) }}", "makes 40,000,000 characters of the prompt"),
    ],
)
def test_a_template_beyond_all_bounds_is_refused(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path, template: str, said: str
) -> None:
    """And what the process may have is what it was before."""
    folder, before = chat_folder(checkpoint, tmp_path / "model", template), resource.getrlimit(resource.RLIMIT_AS)
    assert main(["run", "--model", str(folder), "--prompt", "the sea", *MACHINE]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.endswith("correct the template\n")
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_ctrl_c_ends_an_answer_and_then_the_chat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """The words so far stay, and were said. The second Ctrl-C comes while a question is awaited."""
    asked = []
    generate = chatting.generate

    def interrupted(model: Any, tokenizer: Any, ids: Any, room: int, **more: Any) -> Any:
        asked.append(tokenizer.decode(ids[0]))
        if len(asked) == 1:
            more["stopping_criteria"].insert(0, lambda ids, _: _stop_at(ids, len(asked[0].split()) + 2))
        return generate(model, tokenizer, ids, room, **more)

    def _stop_at(ids: Any, length: int) -> Any:
        if ids.shape[1] == length:
            signal.raise_signal(signal.SIGINT)
        return torch.zeros(1, dtype=torch.bool)

    class Lines(io.StringIO):
        def readline(self, *_: Any) -> str:
            line = super().readline()
            if not line:
                signal.raise_signal(signal.SIGINT)
            return line

    monkeypatch.setattr(chatting, "generate", interrupted)
    monkeypatch.setattr(sys, "stdin", Lines("the sea\nwas calm\n"))
    before = signal.getsignal(signal.SIGINT)
    assert main(["run", "--model", str(folder), "--chat", "--max-new-tokens", str(TOKENS), *MACHINE]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    answers = capsys.readouterr().out.splitlines()
    assert [len(answer.split()) for answer in answers] == [2, TOKENS]
    assert asked[1] == f"{asked[0]} {answers[0]} {USER} was calm {ASSISTANT}"


def test_a_second_ctrl_c_during_an_answer_ends_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def impatient(*_: Any, **__: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(chatting, "generate", impatient)
    monkeypatch.setattr(sys, "stdin", io.StringIO("the sea\n"))
    assert main(["run", "--model", str(folder), "--chat", *MACHINE]) == 130
    assert "hetsched: " in capsys.readouterr().err


class Words:
    """A tokenizer of one token a word, and one for each role."""

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> dict[str, Any]:
        words = " ".join(f"{m['role']} {m['content']}" for m in messages).split()
        return {"input_ids": torch.tensor([[hash(word) for word in words]]), "words": words}


def test_the_oldest_questions_go_and_the_system_text_stays() -> None:
    said = Conversation(Words(), "be kind", context=20, room=6)
    assert said.ask("a b").shape[1] == 3 + 3
    said.answered("c d e")
    assert said.ask("f g").shape[1] == 6 + 4 + 3
    said.answered("h")
    assert said.forgotten == 0
    ids = said.ask("i")  # 6 + 4 + 3 + 2 + 2 and 6 of an answer do not fit in 20
    assert (ids.shape[1], said.forgotten) == (3 + 3 + 2 + 2, 1)
    assert said.room_after(ids) == 6


def test_a_long_question_leaves_what_room_there_is() -> None:
    said = Conversation(Words(), None, context=10, room=6)
    ids = said.ask("a b c d e f g")
    assert said.room_after(ids) == 2
    said.answered(" ")  # nothing: the question goes with it
    assert said.ask("a").shape[1] == 2
    with pytest.raises(InputError, match=r"takes 13 tokens and the context has 10: write less"):
        Conversation(Words(), None, context=10, room=1).ask("a " * 12)


@torch.no_grad()
def test_keys_and_values_are_kept_as_far_as_the_prompt_is_the_same() -> None:
    model = tiny_moe()
    stop = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 0, "eos_token_id": None}
    memory, fed = Remembered(model), []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda _, given: fed.append(given[0].shape[1]))
    prompt = torch.tensor([[5, 6, 7, 8, 9]])
    for follow in ([11, 12], [13]):
        fed.clear()
        plain = model.generate(prompt, **stop)
        whole = fed[0]
        fed.clear()
        out = model.generate(prompt, **memory.settings(prompt), **stop)
        assert torch.equal(out, plain)
        assert fed[0] == (whole if follow == [11, 12] else 1 + 2)  # the answer's last token, and what follows
        memory.keep(prompt, out[0, prompt.shape[1] :].tolist())
        prompt = torch.cat([out, torch.tensor([follow])], dim=1)
    other = torch.tensor([[5, 6, 7, 30, 31, 32]])
    fed.clear()
    assert torch.equal(model.generate(other, **memory.settings(other), **stop), model.generate(other, **stop))
    assert fed[0] == 3
    hook.remove()


def test_a_checkpoint_with_a_cache_of_its_own_kind_makes_it(talk: Callable[..., Any], folder: Path) -> None:
    usual, _ = talk("the sea\nwas calm\n")
    configure(folder, cache_implementation="dynamic")
    try:
        assert talk("the sea\nwas calm\n")[0] == usual
    finally:
        configure(folder)
