"""--json: every document has a schema, every schema a page, and what the quick verbs print keeps to theirs.

Documents of the slower verbs are held against their schemas where these verbs are tested.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

import hetsched
from hetsched.cli import main
from hetsched.schemas import schemas
from hetsched.schemas.page import page
from tests.documents import document_of, validator
from tests.report.test_parser import ALL
from tests.traces.made import saved

ROOT = Path(__file__).parents[2]
SOURCES = Path(hetsched.__file__).parent
# Of files, which no verb prints.
FILES = {f"hetsched-{kind}/1" for kind in ("steer", "host", "predictor", "learned", "routing-trace", "run-log")}
PARTS = {"hetsched-stats/1"}
REPLAY = "--trace t.npz --model gpt-oss-20b --hardware t4 --decision 0 --max-tokens 20"
QUICK = [
    ("profiles list", "profiles"),
    ("profiles show t4", "profile"),
    ("profiles derive t4", "profile"),
    ("profiles show gpt-oss-20b", "model"),
    ("profiles show gpt-oss-20b --format bf16,mxfp4,int4", "needs"),
    ("profiles validate broken.yaml", "validate"),
    ("profiles diff t4 rtx-4090", "diff"),
    ("doctor", "doctor"),
    ("solve --random 2 --solvers exact,sort", "solve"),
    ("solve --trace t.npz --instances 2 --solvers exact,sort", "solve"),
    ("trace info t.npz", "trace-info"),
    ("trace synth --like t.npz --out new.npz", "trace-synth"),
    ("trace split t.npz --sequences 0:1 --out new.npz", "trace-split"),
    ("trace concat t.npz t.npz --out new.npz", "trace-concat"),
    ("trace speculate t.npz --drafts 2 --acceptance 0.5 --out new.npz", "trace-speculate"),
    (f"simulate {REPLAY} --bound-windows 1", "simulate"),
    (f"compare {REPLAY} --bound-windows 0 --strategies cpu-only,static-frequency", "compare"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trace and a file that is neither trace nor profile."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "t.npz", layers=24, experts=32, top_k=4)
    (tmp_path / "broken.yaml").write_text("schema: hetsched-profile/1\nname: x\n")
    return tmp_path


@pytest.mark.parametrize(("line", "name"), QUICK, ids=lambda text: text)
@pytest.mark.usefixtures("folder")
def test_what_is_printed_keeps_to_its_schema(line: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*shlex.split(line), "--json"])
    assert document_of(capsys.readouterr().out)["schema"] == f"hetsched-{name}/1"


@pytest.mark.parametrize("name", schemas())
def test_schemas_are_schemas(name: str) -> None:
    """Of their own file, with a title and a word; nothing is taken for granted, and wrong documents are refused."""
    schema = schemas()[name]
    Draft202012Validator.check_schema(schema)
    assert (SOURCES / "schemas" / f"{name.removeprefix('hetsched-').replace('/', '-')}.json").is_file()
    assert schema["title"]
    assert schema["description"].endswith(".")
    with pytest.raises(ValidationError):
        validator(name).validate({"schema": name, "unheard": "of"})


def test_every_document_has_a_schema() -> None:
    """Of every name that the sources write, and no schema is left over."""
    verbs = [parser.prog.split()[-1] for parser in ALL if parser.prog.startswith("hetsched trace ")]
    written = set(re.findall(r'"(hetsched-[a-z-]+/\d)"', "\n".join(p.read_text() for p in SOURCES.rglob("*.py"))))
    assert written - FILES | {f"hetsched-trace-{verb}/1" for verb in verbs} == set(schemas()) - PARTS


def test_every_verb_with_json_is_in_a_title() -> None:
    """Readers find the document by the command."""
    titles = " ".join(schema["title"] for schema in schemas().values())
    verbs = [parser.prog for parser in ALL if "--json" in parser._option_string_actions]
    assert len(verbs) > 25
    assert [verb for verb in verbs if f"{verb} " not in titles] == []


def test_the_page_is_of_the_schemas() -> None:
    """Run `python -m hetsched.schemas > docs/json.md` after a change."""
    assert (ROOT / "docs" / "json.md").read_text(encoding="utf-8") == page()


def test_documents_that_are_wrong_are_seen() -> None:
    """A field too many, one too few, another type, and NaN."""
    right = {"schema": "hetsched-diff/1", "differences": [{"key": "a", "first": "1", "second": "2", "ratio": None}]}
    document_of(json.dumps(right))
    for wrong in ({**right, "more": 1}, {"schema": "hetsched-diff/1"}, {**right, "differences": [{}]}):
        with pytest.raises(AssertionError):
            document_of(json.dumps(wrong))
    with pytest.raises(AssertionError, match="NaN"):
        document_of(json.dumps(right).replace("null", "NaN"))
