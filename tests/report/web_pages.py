"""What web pages are held to, and sources for them: a run, a comparison, and both with attacks for texts."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from hetsched.runlog import Event, RunLog

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=https://example.com/x onerror=alert(2)> ${1+1} {{ 7 * 7 }} $a^b$ \u202e\0"
)
RUN_FIGURES = {"speed", "hits", "bytes", "lanes", "time", "error", "predicted", "asked", "layers", "residency"}


class Reader(HTMLParser):
    """What a page is made of: tags with attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def figures(html: str) -> set[str | None]:
    return {attributes.get("id") for attributes in Reader(html).all("figure")}


def check_whole(html: str) -> None:
    """Nothing runs and nothing is fetched: by what is there, and by what the policy would allow."""
    page = Reader(html)
    assert not page.all("script")
    assert not {name for _, attributes in page.tags for name in attributes if name.startswith("on")}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
        assert "style" not in attributes
    assert not re.search(r"url\((?!#)|@import", html)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    (css,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;" in str(policy)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(href[1:] in ids for _, a in page.tags if (href := a.get("href") or "").startswith("#"))


def check_told(html: str) -> None:
    """Every figure has a name, a text for who does not see it, a caption, and says where its numbers are from."""
    page = Reader(html)
    shown = len(page.all("figure"))
    pictures = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(pictures) == len(page.all("figcaption")) == len(page.all("small")) == shown > 0
    assert all(len(attributes["aria-label"] or "") > 30 for attributes in pictures)
    assert len(re.findall(r"<small>(simulated|emulated|measured)</small>", html)) == shown


def hostile_run(log: RunLog) -> RunLog:
    """A run all of whose texts are an attack."""
    model = {**log.header.model, "name": HOSTILE}
    header = replace(log.header, model=model, machine={**log.header.machine, "name": HOSTILE, "title": HOSTILE})
    texts = {"policy": HOSTILE, "solver": HOSTILE, "forecaster": HOSTILE, "date": HOSTILE, "hetsched": HOSTILE}
    return replace(log, header=replace(header, **texts), path=HOSTILE, events=[Event(0.001, 0, None, HOSTILE, HOSTILE)])


def hostile_comparison(document: dict[str, Any]) -> dict[str, Any]:
    """A comparison all of whose texts are an attack."""
    rows = [{**row, "strategy": f"{i % 5} {HOSTILE}", "hardware": HOSTILE} for i, row in enumerate(document["rows"])]
    bounds = [{**bound, "hardware": HOSTILE} for bound in document["bounds"]]
    failure = {"hardware": HOSTILE, "gpu_fraction": 0.5, "what": HOSTILE, "why": HOSTILE}
    texts = {"model": HOSTILE, "trace": HOSTILE, "notes": [HOSTILE], "solver": HOSTILE}
    return {**document, **texts, "rows": rows, "bounds": bounds, "failures": [failure]}
