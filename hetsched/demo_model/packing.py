"""The demo model in a packed format: as safetensors, the way such checkpoints are published, or as a GGUF file.

Packed by plain rounding, without calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hetsched.demo_model.packer import Packer
from hetsched.demo_model.progress import Stages, Tick
from hetsched.demo_model.store import publish, require_free
from hetsched.errors import InputError, UnknownNameError

AS_SAFETENSORS = {"bf16": "bf16", "fp8-block": "fp8-block"} | {
    name: f"{name}+group=32" for name in ("int4-group", "gptq", "awq")
}
AS_GGUF = {"bf16": "bf16", "q8_0": "q8_0", "q4_0": "q4_0", "q4_k": "q4_k", "q6_k": "q6_k", "mxfp4": "gguf-mxfp4"}
NAMES = tuple(sorted({*AS_SAFETENSORS, *AS_GGUF}))
FALLBACKS = {"gguf": ("q8_0", "bf16"), "safetensors": ("bf16",)}  # for matrices that the format cannot store
SHARES = {"read": 1.0, "pack": 10.0, "save": 1.0}


def pack_demo_model(
    source: Path, out: Path, name: str, *, as_gguf: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Report of the copy of the demo checkpoint `source` in format `name` that has been written to the folder `out`.

    Keys: `path` (what --model takes), `bytes` of that, and `bytes_by_format` of its matrices: one whose rows are no
    whole number of blocks is in another. Formats of GGUF alone make a GGUF file; `as_gguf` the others that can be one.
    `out` appears only when complete.

    Raises InputError for an unknown format, one without a place in GGUF, or an `out` that is not free.
    """
    from hetsched.loading.load import load_model

    container = container_of(name, as_gguf)
    require_free(out)
    packer = Packer((AS_GGUF if container == "gguf" else AS_SAFETENSORS)[name], FALLBACKS[container])
    with Stages(SHARES, title=f"demo model as {name}", shown=progress) as stages:
        with stages.stage("read"):
            model = load_model(source, progress=False)
        with stages.stage("pack") as tick:
            write, file = _writer(container, name, model, source, packer, tick)
        with stages.stage("save"):
            publish(out, write)
    path = out / file if file else out
    size = sum(each.stat().st_size for each in ([path] if file else path.iterdir()))
    return {"path": str(path), "bytes": size, "bytes_by_format": packer.bytes_by_format}


def container_of(name: str, as_gguf: bool) -> str:
    """ "gguf" or "safetensors". Raises InputError for a format that is neither's, or not that of the one asked for."""
    if name not in NAMES:
        raise UnknownNameError("format", name, NAMES)
    if as_gguf and name not in AS_GGUF:
        raise InputError(f"GGUF files have no {name}; choose one of {', '.join(AS_GGUF)}, or drop --gguf")
    return "gguf" if as_gguf or name not in AS_SAFETENSORS else "safetensors"


def _writer(
    container: str, name: str, model: Any, source: Path, packer: Packer, tick: Tick
) -> tuple[Callable[[Path], None], str]:
    """What writes the packed model to a folder, and the name of its file, "" where it is the folder."""
    if container == "gguf":
        from hetsched.demo_model.as_gguf import gguf_writer

        file = f"demo-{name}.gguf"
        return gguf_writer(name, model, source, packer, tick, file), file
    from hetsched.demo_model.as_safetensors import safetensors_writer

    return safetensors_writer(name, model, source, packer, tick), ""
