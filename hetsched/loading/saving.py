"""A model with packed experts is not saved: its plain weights are several times the checkpoint, which is there."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import InputError
from ..integrations.expert_modules import expert_modules


def refuse_saving(model: Any) -> None:
    """From now on state_dict(), and so save_pretrained(), raises InputError."""
    for module in expert_modules(model):
        module.register_state_dict_pre_hook(_refuse)


def _refuse(module: Any, *_: Any) -> NoReturn:
    raise InputError(
        f"{type(module).__name__} has packed experts, which have no state_dict; copy the checkpoint's folder, or "
        "load the model with unpack=True to save it as plain weights"
    )
