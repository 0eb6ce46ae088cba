"""hetsched.load: a checkpoint folder as a transformers model whose experts are in the host store already, attached."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import plugins
from ..errors import InputError, UnknownNameError
from ..hardware import resolve_hardware
from ..integrations.assembly import Options, refuse_idle
from ..integrations.attachment import Attachment
from ..integrations.budget import gpu_budget_bytes
from ..integrations.model_shape import geometry_of
from ..integrations.transformers import attach
from .checkpoint import Checkpoint, Reader, holds_weights
from .experts import ExpertPlan, fill_experts, plan_experts
from .model_on_meta import on_meta, read_config, resolved_dtype
from .progress import LoadProgress
from .quantised import plain_config, quantizer_for
from .report import LoadReport, remember
from .room import check_room
from .sources import mapping_of

PLUGINS = {"policy": "hetsched.policies", "solver": "hetsched.solvers", "accelerator": "hetsched.accelerators"}


def load(
    path: str | Path, *, dtype: str | torch.dtype | None = None, progress: bool = True, **attach_options: Any
) -> tuple[Any, Attachment]:
    """Load a Mixture-of-Experts checkpoint and run its experts under hetsched: the model and attach()'s handle.

    The same bits as `from_pretrained` and attach(), with the experts read straight into the host store: at no time are
    they in memory twice. `dtype`: as in from_pretrained; None: what the config says. `progress`: bytes and time left on
    a terminal, elsewhere one line at the end. Everything else goes to attach().

    Raises InputError, before anything is allocated, for a folder without a usable checkpoint, a missing or truncated
    shard, a model that does not fit into memory, or options that attach() would refuse.
    """
    model = load_model(path, dtype=dtype, progress=progress, options=attach_options)
    return model, attach(model, **attach_options)


def load_model(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
    options: dict[str, Any] | None = None,
) -> Any:
    """The model alone, in evaluation mode; attach() takes its experts over where they lie. See load().

    `options`: what attach() will be given, to be checked before anything is read.
    """
    folder = Path(path).expanduser()
    config = read_config(folder)
    if reason := _not_read_here(folder, config):
        return _by_transformers(folder, dtype, reason)
    checkpoint = Checkpoint(folder)
    quantizer, config = quantizer_for(config), plain_config(config)
    dtype = resolved_dtype(dtype, config, checkpoint)
    twin = on_meta(config, dtype)
    mapping = mapping_of(twin, checkpoint.tensors, quantizer)
    plan = plan_experts(twin, mapping.sources, checkpoint)
    _check_options(plan, options or {})
    rest_bytes = _bytes_of(twin) - plan.parameter_bytes
    check_room(str(folder), plan.num_bytes, rest_bytes)
    with LoadProgress(folder.name, plan.num_bytes, shown=progress) as bar:
        experts = fill_experts(plan, Reader(checkpoint), bar.advance)
        model = _assembled(twin, dtype, {**checkpoint.slices(plan.rest), **experts})
    _check_in_place(model, plan, experts)
    model.name_or_path = model.config.name_or_path = str(folder)
    model._weight_conversions = mapping.conversions  # so that save_pretrained writes the names it was loaded from
    _read_generation_config(model, folder)
    remember(model, LoadReport(plan.num_bytes, rest_bytes, len(plan.sources), len(plan.whole), len(checkpoint.files)))
    return model.eval()


def _assembled(twin: Any, dtype: torch.dtype, weights: dict[str, Any]) -> Any:
    """transformers' own loading of everything, the experts among it: parameters that need no conversion any more."""
    with _no_bars():
        return type(twin).from_pretrained(None, config=twin.config, state_dict=weights, dtype=dtype)


def _check_in_place(model: Any, plan: ExpertPlan, experts: dict[str, torch.Tensor]) -> None:
    """Raise RuntimeError where transformers copied an expert parameter instead of taking it as it is."""
    for name in plan.parts:
        if model.get_parameter(name).data_ptr() != experts[name].data_ptr():
            raise RuntimeError(f"transformers {transformers.__version__} made a copy of {name}; please report this")


def _not_read_here(folder: Path, config: Any) -> str:
    """Why from_pretrained has to load this folder, "" where it need not."""
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter"
    if getattr(config, "transformers_weights", None) or type(config).extra_files:
        return "its config names weight files of its own"
    return "" if holds_weights(folder) else "its weights are not in model.safetensors or its shards"


def _by_transformers(folder: Path, dtype: Any, reason: str) -> Any:
    """from_pretrained, for what this package does not read; attach() then moves the experts a layer at a time."""
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto").eval()
    except OSError as error:
        raise InputError(f"{folder} holds no weights that transformers reads: {error}") from error
    remember(model, LoadReport(0, _bytes_of(model), 0, 0, 0, reason))
    return model


def _check_options(plan: ExpertPlan, options: dict[str, Any]) -> None:
    """Raise InputError for what attach() would refuse after minutes of reading."""
    known = {option.name for option in fields(Options)}
    for name in options:
        if name not in known:
            raise UnknownNameError("option", name, known)
    for name, group in PLUGINS.items():
        if isinstance(options.get(name), str):
            plugins.load(group, options[name])
    geometry = geometry_of(plan.modules, plan.model.config)
    hardware = resolve_hardware(options.get("hardware"), geometry)
    gpu_budget_bytes(options.get("gpu_memory"), geometry, hardware)
    refuse_idle(Options(**options), hardware)


def _read_generation_config(model: Any, folder: Path) -> None:
    """As from_pretrained does: the folder's, else what config.json says of it."""
    if not model.can_generate():
        return
    read = transformers.GenerationConfig.from_pretrained
    try:
        model.generation_config = read(folder)
    except OSError:
        model.generation_config = read(folder, config_file_name="config.json", _from_model_config=True)


def _bytes_of(module: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """transformers' own progress bar would run beside ours."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
