"""The JSON documents of the command line, each with its JSON Schema (draft 2020-12): files of this folder, by their id.

`python -m hetsched.schemas` prints docs/json.md, which describes them all.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by its id, such as "hetsched-run/1". Those of files that are no single document have no id."""
    folder = files("hetsched") / "schemas"
    read = [json.loads(file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".json")]
    return {made["$id"]: made for made in sorted(read, key=lambda made: str(made.get("$id"))) if "$id" in made}
