"""What a forge reads of the project: the citation, and forms that ask for what an answer needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import hetsched

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
FIELDS = ("markdown", "textarea", "input", "dropdown", "checkboxes")


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_citation_is_whole() -> None:
    """The keys that cff 1.2.0 requires, and the project's own version, licence and authors."""
    cited = loaded(ROOT / "CITATION.cff")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # tomllib is not in Python 3.10
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == hetsched.__version__
    for said in ("version", "license"):
        assert re.search(rf'^{said} = "{re.escape(cited[said])}"$', project, re.MULTILINE), said
    assert all(f'name = "{author["name"]}"' in project for author in cited["authors"])


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_are_well_formed(path: Path) -> None:
    """As GitHub wants them: name, description, fields of known types, each id once, required ones with a label."""
    form = loaded(path)
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "labels", "body", "title"}
    fields = form["body"]
    assert {field["type"] for field in fields} <= set(FIELDS)
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in fields)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_the_doctors_word(path: Path) -> None:
    asked = [field for field in loaded(path)["body"] if "hetsched doctor --json" in field["attributes"]["label"]]
    assert [field["validations"]["required"] for field in asked] == [True]


def test_there_are_forms() -> None:
    assert [path.stem for path in FORMS] == ["bug", "feature", "gpu_check"]
    assert len((ROOT / ".github/pull_request_template.md").read_text(encoding="utf-8").splitlines()) < 12


def test_every_picture_is_shown_and_every_shown_one_is_there() -> None:
    """On the first page or in docs; `make pictures` makes those of commands."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {found for page in pages for found in re.findall(r"pictures/([\w-]+\.svg)\)", page.read_text("utf-8"))}
    assert {path.name for path in (ROOT / "docs/pictures").iterdir()} == shown
