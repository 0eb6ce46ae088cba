"""How the demo model generates: what its generation_config.json says, also that of a model built before it did."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from hetsched.errors import InputError

FILE = "generation_config.json"
# Without it, greedy text of so small a model runs in circles: `hetsched model text` measures that.
REPETITION_PENALTY = 1.1


def mend(folder: Path) -> None:
    """Give a cached model of this recipe the settings of today; its weights, minutes of work, stay as they are.

    Raises InputError where the file is damaged or cannot be written.
    """
    path = folder / FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); remove {folder}, and the model is built again") from error
    if settings.get("repetition_penalty") == REPETITION_PENALTY:
        return
    settings.pop("_from_model_config", None)
    settings["repetition_penalty"] = REPETITION_PENALTY
    part = path.with_name(f".{FILE}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise InputError(
            f"{path} is of an earlier version and cannot be written ({error.strerror}); remove {folder}, or let "
            "its owner run 'hetsched demo' once"
        ) from error
    finally:
        part.unlink(missing_ok=True)
