"""Tokens to text as they come: whole characters, and nothing of a stop string or after it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetsched.serving.spoken import Spoken


def decode(ids: Sequence[int]) -> str:
    """Every byte is a token, as in the worst case of a byte-level tokenizer."""
    return bytes(ids).decode("utf-8", "replace")


def spoken(text: str, stops: Sequence[str]) -> list[str]:
    """The pieces of a text whose tokens come one by one, up to where it stops."""
    voice, pieces = Spoken(decode, stops), []
    for token in text.encode():
        pieces.append(voice.add(token))
        if voice.stopped:
            break
    return [*pieces, voice.rest()]


@given(text=st.text(st.sampled_from("abé漢😀 "), max_size=30), stops=st.lists(st.text("abé", min_size=1, max_size=3)))
def test_the_pieces_are_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    """The first to be whole; of those that are whole with the same character, the one that begins first."""
    ends = [found + len(stop) for stop in stops if (found := text.find(stop)) >= 0]
    read = text[: min(ends, default=len(text))]
    expected = read[: min((found for stop in stops if (found := read.find(stop)) >= 0), default=len(read))]
    pieces = spoken(text, stops)
    assert "".join(pieces) == expected
    assert not any("�" in piece for piece in pieces)


def test_only_what_may_become_a_stop_is_held_back() -> None:
    assert spoken("xab!", ["abc"]) == ["x", "", "", "ab!", ""]


def test_bytes_that_are_no_character_come_at_the_end() -> None:
    voice = Spoken(decode)
    assert [voice.add(token) for token in (ord("a"), 0xE6, 0xBC)] == ["a", "", ""]
    assert voice.rest() == "�"


@pytest.mark.parametrize("stops", [[], ["never"]])
def test_nothing_said_is_no_text(stops: list[str]) -> None:
    voice = Spoken(decode, stops)
    assert (voice.rest(), voice.tokens, voice.last) == ("", 0, None)
