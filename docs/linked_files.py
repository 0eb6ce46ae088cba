"""MkDocs hook: files of the project that pages link to come into the site, and links lead there; no page is forgotten.

On GitHub a page's link to ../MEASUREMENTS.md leads to the file. MkDocs sees docs/ alone: here every file outside that a
page links to, directly or by way of another Markdown file, is added under project/, and links follow it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that the menu does not name come at its end."""
    named = str(config.nav)
    left = [page.name for page in sorted((ROOT / "docs").glob("*.md")) if f"'{page.name}'" not in named]
    if config.nav and left:
        config.nav = [*config.nav, {"More": left}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to, and what that links to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        for target in targets(waiting.pop()):
            if target in seen or not (ROOT / target).is_file():
                continue
            seen.add(target)
            if not target.startswith("docs/"):
                files.append(File.generated(config, site_path(target), abs_src_path=str(ROOT / target)))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the site; what is no file, a folder of sources, stays text."""
    here = page.file.src_uri
    at = here.removeprefix("project/") if here.startswith("project/") else f"docs/{here}"

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(at), match[1]))
        return posixpath.relpath(site_path(target), posixpath.dirname(here) or ".")

    kept = re.sub(r"\[([^\]]+)\]\(([^)\s#]+)\)", lambda found: unlinked(found, at), markdown)
    return LINK.sub(moved, kept)


def unlinked(found: re.Match[str], at: str) -> str:
    """The words of a link to a folder, which a site has no page for; any other link as it is."""
    return found[1] if (ROOT / posixpath.dirname(at) / found[2]).is_dir() else found[0]


def targets(page: str) -> list[str]:
    """Files that a page links to, by their paths from the project's root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link in LINK.findall(text)]


def site_path(path: str) -> str:
    """Where a file of the project is in the site's sources."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"project/{path}"
