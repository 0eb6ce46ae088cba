"""Prints the page of all JSON documents: python -m hetsched.schemas > docs/json.md."""

from __future__ import annotations

from .page import page

if __name__ == "__main__":
    print(page(), end="")
