"""The demo model: a small dense model made into a sparse Mixture-of-Experts checkpoint, on this machine, once.

SmolLM2-135M-Instruct becomes a stock `Qwen2MoeForCausalLM` of 30 layers with 16 routed experts each. Importing this
package is light: torch and transformers load when a model is built.
"""

from __future__ import annotations

from pathlib import Path

from hetsched.cache import cache_folder
from hetsched.demo_model.generation import mend
from hetsched.errors import InputError
from hetsched.machine.demo_geometry import RECIPE_VERSION, cached_folder

DEFAULT_HEAL_STEPS = 30

__all__ = ["DEFAULT_HEAL_STEPS", "RECIPE_VERSION", "build_demo_model", "demo_model_path"]


def demo_model_path(*, progress: bool = True) -> Path:
    """Folder of the cached demo checkpoint, which is built first if absent (minutes, once per recipe version).

    The settings of one that was built before they were what they are now are mended in place.

    `progress` shows one bar on stderr while building. Raises `MissingDependencyError` where the source weights are
    not installed, `InputError` where the cache folder cannot be written.
    """
    folder = cached_folder()
    if not (folder / "config.json").is_file():
        cache_folder("models")  # said before the minutes of work, not after
        build_demo_model(folder, progress=progress)
    mend(folder)
    return folder


def build_demo_model(out: Path, *, heal_steps: int = DEFAULT_HEAL_STEPS, progress: bool = True) -> dict[str, float]:
    """Report of a build that has written the demo checkpoint to `out`.

    Keys: `ppl_{prose,own}_{dense,converted,healed}` (perplexity on held-out text) and `seconds_{stage}`. `heal_steps`
    counts optimiser steps of distillation; 0 leaves the converted model as it is. `out` appears only when complete;
    where another process finished it meanwhile, that one stays. Raises `InputError` where `out` exists and is not
    empty, or `heal_steps` is below 0, `MissingDependencyError` where the source weights are not installed.
    """
    if heal_steps < 0:
        raise InputError(
            f"heal_steps is {heal_steps}; it must be at least 0, which leaves the converted model as it is"
        )
    from hetsched.demo_model.build import build

    return build(out, heal_steps=heal_steps, progress=progress)
