"""Documents: entries of DECISIONS.md are short, links lead somewhere, and what is named exists."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DECISIONS, MEASUREMENTS = "DECISIONS.md", "MEASUREMENTS.md"
PAGES = tuple(sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
DOCUMENTS = (DECISIONS, MEASUREMENTS, *PAGES)
LINKING = ("README.md", "CONTRIBUTING.md", *DOCUMENTS)
MOST_LINES, MOST_COLUMNS = 5, 120
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def is_outside(link: str) -> bool:
    """Whether a link leaves the project; only by https."""
    return link.startswith("https://")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def entries(text: str) -> dict[str, list[str]]:
    """Every ### title with the lines below it that are not empty, up to the next heading."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            lines = found.setdefault(line, []) if line.startswith("### ") else []
        elif line.strip():
            lines.append(line)
    return found


def anchors(text: str) -> set[str]:
    """What a link may name after the #, as GitHub makes it of headings: lower case, no punctuation, hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_spans(text: str) -> list[str]:
    """What stands between backticks in a line or paragraph, fenced blocks apart."""
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def missing_paths(text: str) -> list[str]:
    """Code spans that are paths, by a folder or an ending of ours, and that nothing in the project is called.

    Paths of a server (`/health`) and names of schemas (`hetsched-plan/1`) are none.
    """
    paths = [span for span in code_spans(text) if re.fullmatch(r"[\w./-]*(/[\w./-]*|\.(py|md|yaml|toml|txt))", span)]
    paths = [path for path in paths if not re.fullmatch(r"/.*|hetsched-[\w-]+/\d+", path)]
    return [path for path in paths if not (ROOT / path).exists()]


def test_every_entry_is_short() -> None:
    """At most five lines of 120 columns under a title of one line; no title twice, none without a word below."""
    text = text_of(DECISIONS)
    found = entries(text)
    assert len(found) == text.count("\n### ") > 50
    assert not [title for title, lines in found.items() if not 1 <= len(lines) <= MOST_LINES]
    assert not [line for title, lines in found.items() for line in [title, *lines] if len(line) > MOST_COLUMNS]


@pytest.mark.parametrize("name", LINKING)
def test_every_link_leads_somewhere(name: str) -> None:
    """Files and folders of the project exist, and so do the headings that links name; the web is not asked."""
    links = [link for link in re.findall(r"\]\(([^)]+)\)", FENCED.sub("", text_of(name))) if not is_outside(link)]
    assert links or name in PAGES
    for link in links:
        path, _, anchor = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), link
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name: str) -> None:
    assert missing_paths(text_of(name)) == []


@functools.cache
def words_of_sources() -> frozenset[str]:
    """Every word of every source but this one."""
    sources = [path for folder in ("hetsched", "solvers", "tests") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path != Path(__file__))
    return frozenset(re.findall(r"\w+", text))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_named_in_code_is_in_the_code(name: str) -> None:
    """The last part of every single name in a code span (`Exact`, `stats()`) stands in some source of the project."""
    words = words_of_sources()
    names = [
        span.removesuffix("()").split(".")[-1]
        for span in code_spans(text_of(name))
        if re.fullmatch(r"[\w.]+(\(\))?", span)
    ]
    assert names or name in PAGES
    assert [name for name in names if name not in words and not (ROOT / name).exists()] == []


def test_the_checks_can_fail() -> None:
    """A path that is gone, an anchor of punctuation, and an entry's lines are seen as what they are."""
    assert missing_paths("`hetsched/gone.py` `README.md` `/health` `hetsched-plan/1` `a / b` `hetsched/` `Exact`") == [
        "hetsched/gone.py"
    ]
    assert code_spans("`a` b\n```\nc `d`\n```\n`e`") == ["a", "e"]
    assert anchors("# A b\n### gpt-oss: it's 5 %\n") == {"a-b", "gpt-oss-its-5-"}
    assert entries("## A\nx\n### B\ny\n\nz\n## C\nw\n") == {"### B": ["y", "z"]}
