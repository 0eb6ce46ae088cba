"""JSON documents hold no NaN and no Infinity, and one door prints them all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import hetsched.cli
from hetsched.report.documents import print_document


def test_numbers_that_are_none_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_document({"a": math.nan, "b": [math.inf, 1.5, (-math.inf,)], "c": {"d": 2, "e": "NaN"}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5, [None]], "c": {"d": 2, "e": "NaN"}}


def test_no_verb_prints_json_past_it() -> None:
    verbs = sorted(Path(hetsched.cli.__file__).parent.glob("*.py"))
    assert [path.name for path in verbs if "json.dump" in path.read_text(encoding="utf-8")] == []
