"""matplotlib's figures as SVG inside a page: styles as classes that figures share, in light and dark colours.

Inline styles would need a lax content policy, and are half of the bytes; classes need neither.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
SETTINGS = {"svg.fonttype": "none", "text.parse_math": False}  # text stays text; a $ in a name begins no formula
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
REFERENCE = re.compile(r"#[\w-]+")
HEX = re.compile(r"#[0-9a-f]{6}\b")


class StyleSheet:
    """Declarations that figures share, each a class. `dark`: what a colour becomes on a dark screen, by '#rrggbb'."""

    def __init__(self, dark: dict[str, str]) -> None:
        self._dark = dark
        self._classes: dict[str, str] = {}

    def name(self, declarations: str) -> str:
        """The class of these declarations."""
        kept = (part.strip() for part in declarations.split(";"))
        text = ";".join(part for part in kept if part and not part.startswith("font-family"))
        return self._classes.setdefault(text, f"m{len(self._classes)}")

    def css(self) -> str:
        """Rules for all classes; those whose colours change stand again, for dark screens. Paper is always light."""
        rules = {name: text for text, name in self._classes.items()}
        changed = {name: HEX.sub(self._in_the_dark, text) for name, text in rules.items()}
        dark = "\n".join(_rule(name, text) for name, text in changed.items() if text != rules[name])
        light = "\n".join(_rule(name, text) for name, text in rules.items())
        return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"

    def _in_the_dark(self, colour: re.Match[str]) -> str:
        return self._dark.get(colour[0], colour[0])


def _rule(name: str, declarations: str) -> str:
    return f".{name}{{{declarations}}}"


def inline_svg(figure: Any, key: str, styles: StyleSheet) -> str:
    """A matplotlib figure as one <svg> element. `key`: the figure's own, so that ids of two never meet."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": key}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts draw it, not matplotlib's
        figure.savefig(text, format="svg", metadata=NO_METADATA, transparent=True)
    root = ElementTree.fromstring(text.getvalue())
    referred = {ref[1:] for node in root.iter() for value in node.attrib.values() for ref in REFERENCE.findall(value)}
    for parent in root.iter():
        for child in [child for child in parent if child.tag == f"{SVG}style"]:
            parent.remove(child)
    for node in root.iter():
        _tidy(node, referred, styles)
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "focusable": "false"}
    ElementTree.register_namespace("", SVG[1:-1])
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(node: ElementTree.Element, referred: set[str], styles: StyleSheet) -> None:
    """Classes for styles, plain links for XLink ones, and only ids that something refers to."""
    style = node.attrib.pop("style", "")
    if style:
        node.set("class", styles.name(style))
    if node.get("id") not in referred:
        node.attrib.pop("id", None)
    link = node.attrib.pop(f"{XLINK}href", None)
    if link is not None:
        node.set("href", "".join(link.split()))  # the bytes of an image are broken into lines
    if "d" in node.attrib:
        node.set("d", " ".join(node.attrib["d"].split()))
    if node.text and not node.text.strip():
        node.text = None
    if node.tail and not node.tail.strip():
        node.tail = None
