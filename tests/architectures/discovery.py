"""Which architectures there are, read from the installed transformers: nothing is listed here."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

MODELS = Path(transformers.__file__).parent / "models"
MARK = "use_experts_implementation"
# Most complete first; what generates before what does not.
ENDINGS = ("ForConditionalGeneration", "ForCausalLM", "ForBlockDiffusion", "ForTokenClassification", "Model")


@functools.cache
def expert_classes() -> tuple[str, ...]:
    """ "package.Class" of every class decorated with use_experts_implementation, in order."""
    found: list[str] = []
    for path in sorted(MODELS.glob("*/modeling_*.py")):
        text = path.read_text()
        if MARK not in text:
            continue
        found += [
            f"{path.parent.name}.{node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.ClassDef) and any(_is_mark(decorator) for decorator in node.decorator_list)
        ]
    return tuple(found)


def _is_mark(node: ast.expr) -> bool:
    name = node.func if isinstance(node, ast.Call) else node
    return isinstance(name, ast.Name) and name.id == MARK


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
