"""hetsched: decides, online, where each expert of a Mixture-of-Experts model runs when the GPU is too small."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .cost.model import CostModel as CostModel
    from .errors import InputError as InputError
    from .geometry import MoEGeometry as MoEGeometry
    from .integrations.places import attachment_of as attachment_of
    from .integrations.transformers import attach as attach
    from .integrations.transformers import defaults as defaults
    from .loading.load import load as load
    from .machine.hardware import resolve_hardware as resolve_hardware
    from .scheduler import Scheduler as Scheduler
    from .types import Demand as Demand
    from .types import LinkState as LinkState
    from .types import Outcome as Outcome
    from .types import Phase as Phase
    from .types import Plan as Plan

__version__ = "0.1.0"

# Loaded when first used, so that `import hetsched` needs neither torch nor transformers.
_HOME = {
    "CostModel": "cost.model",
    "InputError": "errors",
    "MoEGeometry": "geometry",
    "resolve_hardware": "machine.hardware",
    "attach": "integrations.transformers",
    "attachment_of": "integrations.places",
    "defaults": "integrations.transformers",
    "load": "loading.load",
    "Scheduler": "scheduler",
    "Demand": "types",
    "LinkState": "types",
    "Outcome": "types",
    "Phase": "types",
    "Plan": "types",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'hetsched' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
