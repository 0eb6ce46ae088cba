"""hetsched.load: a checkpoint as a transformers model whose experts are in the host store already, attached."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from ..errors import InputError
from ..integrations.attachment import Attachment
from ..integrations.choices import check_options, check_options_for
from ..integrations.expert_modules import expert_modules
from ..integrations.load_report import LoadReport, remember
from ..integrations.model_shape import geometry_of, layers_of, rest_of
from ..integrations.transformers import attach
from ..machine.memory import check_room
from .checkpoint import AGAIN, Checkpoint, Reader, holds_weights
from .experts import ExpertPlan, Filled, fill_experts, plan_experts, put_experts
from .generation_file import read_generation
from .gguf_config import generation_config_of
from .gguf_file import GgufReader
from .gguf_plan import GgufPlan
from .hub import is_gguf, located, shown_name
from .missing import missing_weights, refuse_missing, refuse_other_shapes
from .model_on_meta import on_meta, plain_config, read_config, resolved_dtype
from .packed_tensors import refuse_lone
from .progress import LoadProgress, stage
from .quantization import packing_of
from .remote_code import at_work
from .saving import refuse_saving
from .sources import mapping_of


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
    trust_remote_code: bool = False,
    unpack: bool = False,
    **attach_options: Any,
) -> tuple[Any, Attachment]:
    """Load a Mixture-of-Experts checkpoint and run its experts under hetsched: the model and attach()'s handle.

    `path`: a checkpoint folder, a GGUF file or one of its shards, or an id on the hub ("openai/gpt-oss-20b", or
    "owner/name/file.gguf"), which is fetched unless the hub's cache has it.

    The same bits as `from_pretrained` and attach(), with the experts read straight into the host store: at no time are
    they in memory twice. Packed ones (MXFP4, FP8 blocks, int4 groups, GPTQ, AWQ, GGUF) stay packed there and compute as
    unpacked ones; the rest of such a model is unpacked. `unpack`: the experts, too, which makes them weights like any
    others, to be saved or written to.

    `dtype`: as in from_pretrained; None: what the config says. `progress`: bytes and time left on a terminal,
    elsewhere one line at the end. `trust_remote_code`: run Python code that the folder brings along, which is refused
    otherwise. Everything else goes to attach().

    Raises InputError, before anything is allocated, for a folder without a usable checkpoint, a missing or truncated
    shard, missing weights, a model that does not fit into memory, or options that attach() would refuse.
    """
    how: dict[str, Any] = {"dtype": dtype, "progress": progress, "trust_remote_code": trust_remote_code}
    model = load_model(path, **how, unpack=unpack, options=[attach_options])
    return model, attach(model, **attach_options)


def load_model(
    path: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
    trust_remote_code: bool = False,
    unpack: bool = False,
    options: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """The model alone, in evaluation mode; attach() takes its experts over where they lie. See load().

    `options`: what attach() will be given, once or several times, to be checked before anything is read.
    """
    for given in options:
        check_options(given)
    folder = located(path, progress=progress)
    if is_gguf(folder):
        return _of_gguf(folder, dtype, progress, unpack, options)
    with stage("reading config and headers", shown=progress):
        config = read_config(folder, trust_remote_code=trust_remote_code)
        reason = _not_read_here(folder, config)
        found = None if reason else _found(folder, config, dtype, trust_remote_code, unpack)
        if found:
            _check_options(options, found.plan.model)
        elif dtype not in (None, "auto") or config.dtype is not None:  # else only the weights know it
            _check_options(options, on_meta(config, resolved_dtype(dtype, config), trust_remote_code))
    if found is None:
        return _by_transformers(folder, dtype, reason, trust_remote_code)
    model = _read(folder, found, progress)
    model.name_or_path = model.config.name_or_path = str(folder)
    model._weight_conversions = found.conversions  # so that save_pretrained writes the names it was loaded from
    _read_generation_config(model, folder)
    remember(model, _report(found))
    return model.eval()


def load_dense(folder: Path, dtype: torch.dtype) -> Any:
    """A model for other purposes than to be attached to, by transformers. Raises InputError for no whole checkpoint."""
    read_config(folder)
    return _by_transformers(folder, dtype, "it is not attached", False)


def _of_gguf(
    path: Path, dtype: str | torch.dtype | None, progress: bool, unpack: bool, options: Sequence[Mapping[str, Any]]
) -> Any:
    """load_model() of a GGUF file, or of one of its shards."""
    with stage("reading the file's header", shown=progress):
        plan = GgufPlan(path, dtype, unpack=unpack)
        _check_options(options, plan.twin)
        generation = generation_config_of(plan.gguf, plan.twin.config)
    check_room(str(path), plan.expert_bytes, plan.rest_bytes)
    with LoadProgress(path.name, plan.expert_bytes, shown=progress) as bar, GgufReader() as reader:
        weights, filled = plan.read(reader, bar.advance)
        model = _assembled(plan.twin, path, weights)
    plan.put(model, filled)
    model.name_or_path = model.config.name_or_path = str(path)
    model.generation_config = generation
    remember(model, plan.report())
    return model.eval()


def _read(folder: Path, found: _Found, progress: bool) -> Any:
    """The model with its weights. Raises InputError where there is no room for them."""
    plan, checkpoint = found.plan, found.checkpoint
    check_room(str(folder), plan.num_bytes, plan.rest_bytes)
    with LoadProgress(shown_name(folder), plan.num_bytes, shown=progress) as bar:
        filled = fill_experts(plan, Reader(checkpoint), bar.advance)
        model = _assembled(plan.model, folder, {**checkpoint.slices(plan.rest), **filled.weights})
    _check_in_place(model, plan, filled)
    put_experts(model, plan, filled)
    if filled.packed:
        refuse_saving(model)
    return model


class _Found(NamedTuple):
    """A complete checkpoint by its headers; of its weights, nothing is read yet. `used`: names that have a place."""

    checkpoint: Checkpoint
    plan: ExpertPlan
    conversions: list[Any]
    used: list[str]


def _found(folder: Path, config: Any, dtype: str | torch.dtype | None, trust_remote_code: bool, unpack: bool) -> _Found:
    """What the headers hold, and what becomes of it. Raises InputError for a checkpoint that is not the config's."""
    packing, config = packing_of(config), plain_config(config)
    checkpoint = Checkpoint(folder, packing)
    twin = on_meta(config, resolved_dtype(dtype, config, checkpoint.float_dtype), trust_remote_code)
    mapping = mapping_of(twin, checkpoint.held)
    used = [name for found in mapping.sources for name in found.all_names]
    if packing is not None:
        refuse_lone(used, checkpoint.held, packing)
    refuse_missing(folder, missing_weights(twin, {name for found in mapping.sources for name in found.targets}))
    plan = plan_experts(twin, mapping.sources, checkpoint, unpack=unpack)
    refuse_other_shapes(twin, [found for found in mapping.sources if found not in plan.sources], checkpoint.held)
    return _Found(checkpoint, plan, mapping.conversions, used)


def _check_options(options: Sequence[Mapping[str, Any]], twin: Any) -> None:
    """Raise InputError for what attach() would refuse of this model after minutes of reading."""
    if options:
        modules = [tied[0] for tied in layers_of(expert_modules(twin))]
        geometry, rest = geometry_of(modules, twin.config), rest_of(twin, modules)
        for given in options:
            check_options_for(given, geometry, modules, rest)


def _assembled(twin: Any, folder: Path, weights: dict[str, Any]) -> Any:
    """transformers' own loading of everything, the experts among it: parameters that need no conversion any more."""
    given = {"config": twin.config, "state_dict": weights, "dtype": twin.dtype}
    return _complete(folder, lambda **more: type(twin).from_pretrained(None, **given, **more))


def _complete(folder: Path, read: Callable[..., tuple[Any, dict[str, Any]]]) -> Any:
    """The model that from_pretrained has read without a bar. Raises InputError where it would make weights up."""
    try:
        with _no_bars():
            model, found = read(output_loading_info=True, ignore_mismatched_sizes=True)
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise InputError(f"{folder}'s weights are not of the shapes that config.json names; see above which") from error
    refuse_missing(folder, found["missing_keys"])
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise InputError(
            f"{name} is {list(stored)} in {folder} where the model has {list(wanted)}; "
            "config.json belongs to another checkpoint"
        )
    return model


def _check_in_place(model: Any, plan: ExpertPlan, filled: Filled) -> None:
    """Raise RuntimeError where transformers copied an expert parameter instead of taking it as it is."""
    for name in plan.parts:
        if model.get_parameter(name).data_ptr() != filled.weights[name].data_ptr():
            raise RuntimeError(f"transformers {transformers.__version__} made a copy of {name}; please report this")


def _report(found: _Found) -> LoadReport:
    plan, packed = found.plan, found.checkpoint.packed
    kept = {id(tensor): tensor for tensor in plan.packed}
    unpacked = [packed[name] for name in found.used if name in packed and id(packed[name]) not in kept]
    bytes_by_format: dict[str, int] = {}
    for tensor in unpacked:
        bytes_by_format[tensor.format.name] = bytes_by_format.get(tensor.format.name, 0) + tensor.num_bytes
    return LoadReport(
        plan.num_bytes,
        plan.rest_bytes,
        len(plan.sources),
        len(plan.whole),
        len(found.checkpoint.files),
        formats=tuple(dict.fromkeys(tensor.format.name for tensor in kept.values())),
        unpacked=bytes_by_format,
        unpacked_bytes=sum(prod(tensor.shape) for tensor in unpacked) * plan.model.dtype.itemsize,
    )


def _not_read_here(folder: Path, config: Any) -> str:
    """Why from_pretrained has to load this folder, "" where it need not."""
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter"
    if getattr(config, "transformers_weights", None) or type(config).extra_files:
        return "its config names weight files of its own"
    return "" if holds_weights(folder) else "its weights are not in model.safetensors or its shards"


def _by_transformers(folder: Path, dtype: Any, reason: str, trust_remote_code: bool) -> Any:
    """from_pretrained, for what this package does not read; attach() then moves the experts a layer at a time."""
    auto, given = transformers.AutoModelForCausalLM, {"dtype": dtype or "auto", "trust_remote_code": trust_remote_code}
    with at_work(folder, f"{folder} holds no weights that transformers reads", AGAIN):
        model = _complete(folder, lambda **more: auto.from_pretrained(folder, **given, **more)).eval()
    remember(model, LoadReport(0, _bytes_of(model), 0, 0, 0, reason))
    return model


def _read_generation_config(model: Any, folder: Path) -> None:
    """As from_pretrained does: the folder's, else what config.json says of it."""
    if not model.can_generate():
        return
    found = read_generation(folder)
    if found is None:
        read = transformers.GenerationConfig.from_pretrained
        found = read(folder, config_file_name="config.json", _from_model_config=True)
    model.generation_config = found


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
