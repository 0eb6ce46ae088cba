"""Which architectures there are, read from the installed transformers: nothing is listed here."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

MODELS = Path(transformers.__file__).parent / "models"
# A class of this decorator, whose arguments may take lines, and perhaps of others after it; parsing takes seconds.
DECORATED = re.compile(
    r"^@use_experts_implementation\b.*\n(?:(?!class |def |@).*\n)*(?:@.*\n)*class (\w+)", re.MULTILINE
)
# Most complete first; what generates before what does not.
ENDINGS = ("ForConditionalGeneration", "ForCausalLM", "ForBlockDiffusion", "ForTokenClassification", "Model")


@functools.cache
def expert_classes() -> tuple[str, ...]:
    """ "package.Class" of every class decorated with use_experts_implementation, in order."""
    found: list[str] = []
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        found += [f"{path.parent.name}.{name}" for name in DECORATED.findall(path.read_text())]
    return tuple(found)


def modeling(package: str) -> Any:
    """The modeling module of an architecture."""
    return importlib.import_module(f"transformers.models.{package}.modeling_{package}")


def expert_class(name: str) -> Any:
    """The class of "package.Class"."""
    package, _, kind = name.partition(".")
    return getattr(modeling(package), kind)


def model_classes(package: str) -> list[Any]:
    """The architecture's models, the most complete first."""
    module = modeling(package)
    found = [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and issubclass(kind, PreTrainedModel)
        and kind.__module__ == module.__name__
        and kind.__name__.endswith(ENDINGS)
        and not kind.__name__.endswith("PreTrainedModel")
    ]
    return sorted(found, key=lambda kind: [kind.__name__.endswith(ending) for ending in ENDINGS].index(True))
