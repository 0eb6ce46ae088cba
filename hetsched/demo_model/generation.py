"""How the demo model generates: what its generation_config.json says, also that of a model built before it did."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from hetsched.errors import InputError

FILE = "generation_config.json"
# As the dense model's authors let it write (model card of SmolLM2-135M-Instruct), with a penalty, as so small a model
# otherwise runs in circles: `hetsched model text` measures that.
SETTINGS = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1}


def mend(folder: Path) -> None:
    """Give a cached model of this recipe the settings of today; its weights, minutes of work, stay as they are.

    Raises InputError where the file is damaged or cannot be written.
    """
    path = folder / FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); remove {folder}, and the model is built again") from error
    if settings.items() >= SETTINGS.items():
        return
    settings.pop("_from_model_config", None)
    settings.update(SETTINGS)
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
