"""Decode on the GPU by raw kernels: one layer's resident experts for at most four tokens in three launches.

Shapes: T tokens, P pairs of token and expert, N experts, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...errors import MissingDependencyError
from . import source as cuda_source
from .source import KERNELS, MAX_EXPERTS, MAX_ROWS, SUM_THREADS, THREADS, WARPS

INSTALL = 'pip install "hetsched[cuda13]" nvidia-cuda-nvrtc'
DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
LAYER = np.dtype(
    [("up_N", np.uint64, MAX_EXPERTS), ("down_N", np.uint64, MAX_EXPERTS), ("begin_N", np.int32, MAX_EXPERTS + 1)],
    align=True,
)


class Activation(NamedTuple):
    """What stands between the two products: a kind of cuda_source, and its constants."""

    kind: int
    alpha: float = 1.0
    limit: float = 0.0


class Experts(NamedTuple):
    """Experts of one launch: weights [2F, H] and [H, F] of each, ascending by expert, and how many pairs each has."""

    weights: Sequence[Mapping[str, torch.Tensor]]
    pairs_N: Sequence[int]


def compiled(dtype: str, arch: int) -> bytes:
    """The kernels as a cubin for compute capability `arch` (80: 8.0), by NVRTC; needs no GPU.

    Raises RuntimeError with the compiler's log, MissingDependencyError without CuPy.
    """
    try:
        from cupy_backends.cuda.libs import nvrtc
    except ImportError as error:
        raise MissingDependencyError("cupy", "compiling the CUDA kernels", INSTALL) from error
    program = nvrtc.createProgram(cuda_source.SOURCE, "hetsched.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*cuda_source.options(dtype), f"--gpu-architecture=sm_{arch}"))
        cubin: bytes = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"NVRTC: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
    return cubin


def packed(experts: Experts) -> np.ndarray[Any, np.dtype[np.void]]:
    """The kernels' Layer argument, a structure passed by value. Raises ValueError beyond what a launch takes."""
    if len(experts.weights) > MAX_EXPERTS or max(experts.pairs_N) > MAX_ROWS:
        raise ValueError(f"a launch takes {MAX_EXPERTS} experts of {MAX_ROWS} rows each")
    layer: np.ndarray[Any, np.dtype[np.void]] = np.zeros((), LAYER)
    count = len(experts.weights)
    layer["up_N"][:count] = [weights["gate_up_proj"].data_ptr() for weights in experts.weights]
    layer["down_N"][:count] = [weights["down_proj"].data_ptr() for weights in experts.weights]
    layer["begin_N"][1 : count + 1] = np.cumsum(experts.pairs_N)
    return layer


def serves(weights: Mapping[str, torch.Tensor], hidden_TH: torch.Tensor) -> bool:
    """Whether the kernels take these weights: plain, row-major, one dtype, rows of whole 16-byte loads."""
    if set(weights) != {"gate_up_proj", "down_proj"} or hidden_TH.dtype not in DTYPE_NAMES:
        return False
    up, down = weights["gate_up_proj"], weights["down_proj"]
    if not isinstance(up, torch.Tensor):
        return False  # a lossy copy's
    per_load = 16 // hidden_TH.element_size()
    shapes = up.shape[1] == hidden_TH.shape[1] == down.shape[0] and up.shape[0] == 2 * down.shape[1]
    whole = all(tensor.shape[1] % per_load == 0 and tensor.data_ptr() % 16 == 0 for tensor in (up, down))
    plain = up.is_contiguous() and down.is_contiguous() and hidden_TH.is_contiguous()
    return shapes and whole and plain and up.dtype == down.dtype == hidden_TH.dtype


def activation_of(module: Any) -> Activation | None:
    """The activation that a module's own gate computes, found by trying it; None: not one of the kernels'."""
    if not module.has_gate or module.is_transposed or module.has_bias or module.has_post_expert_norm:
        return None
    sample_PF = torch.linspace(-30.0, 30.0, 8 * 62).reshape(62, 8).T.contiguous()
    with torch.no_grad():
        try:
            expected_PF = module._apply_gate(sample_PF)
        except (RuntimeError, TypeError, ValueError):
            return None  # parameters of its own, on another device or of another shape
    limit = next((float(v) for name in ("limit", "swiglu_limit") if (v := getattr(module, name, None)) is not None), 0)
    alpha = next((float(v) for name in ("alpha", "swiglu_alpha") if (v := getattr(module, name, None)) is not None), 1)
    for activation in (Activation(0), Activation(1, limit=limit), Activation(2, alpha, limit)):
        found_PF = reference(activation, sample_PF)
        if found_PF.shape == expected_PF.shape and torch.allclose(found_PF, expected_PF, rtol=1e-5, atol=1e-6):
            return activation
    return None


def reference(activation: Activation, gate_up: torch.Tensor) -> torch.Tensor:
    """The same activation by torch: [P, 2F] to [P, F]."""
    gate, up = gate_up.chunk(2, dim=-1)
    if activation.kind:
        gate, up = gate.clamp(max=activation.limit), up.clamp(-activation.limit, activation.limit)
    if activation.kind == cuda_source.SIGMOID_CLAMPED:
        return (up + 1.0) * (gate * torch.sigmoid(gate * activation.alpha))
    return F.silu(gate) * up


class DecodeKernels:
    """The compiled kernels on torch's current device and stream. Results do not depend on timing: every sum has one
    order."""

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise MissingDependencyError("cupy", "the decode kernels", INSTALL) from error
        self._cupy: Any = cupy
        self._functions: dict[str, Callable[..., None]] = {}

    def parts(
        self,
        experts: Experts,
        activation: Activation,
        hidden_TH: torch.Tensor,
        row_P: torch.Tensor,
        weight_P: torch.Tensor,
    ) -> torch.Tensor:
        """down(act(gate(x)) * up(x)) * router weight of each pair: [P, H]. All on the device, `row_P` int64."""
        layer, (pairs, hidden) = packed(experts), (len(row_P), hidden_TH.shape[1])
        ffn = experts.weights[0]["down_proj"].shape[1]
        act_PF = hidden_TH.new_empty((pairs, ffn))
        part_PH = hidden_TH.new_empty((pairs, hidden))
        router_P = weight_P.reshape(-1).to(torch.float32)
        count, dtype = len(experts.weights), DTYPE_NAMES[hidden_TH.dtype]
        constants = np.int32(activation.kind), np.float32(activation.alpha), np.float32(activation.limit)
        sizes = np.int32(hidden), np.int32(ffn)
        with self._stream():
            grid, pointers = (-(-ffn // WARPS), count), (hidden_TH.data_ptr(), row_P.data_ptr(), act_PF.data_ptr())
            self._launch("gate_up", dtype, grid, THREADS, (layer, *pointers, *sizes, *constants))
            grid, pointers = (-(-hidden // WARPS), count), (act_PF.data_ptr(), router_P.data_ptr(), part_PH.data_ptr())
            self._launch("down", dtype, grid, THREADS, (layer, *pointers, *sizes))
        return part_PH

    def scatter(self, part_PH: torch.Tensor, row_P: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """Each token's parts added in the order given, as eager adds them: [T, H]."""
        pairs, hidden = part_PH.shape
        out_TH = part_PH.new_empty((num_tokens, hidden))
        arguments = part_PH.data_ptr(), row_P.data_ptr(), out_TH.data_ptr(), np.int32(pairs), np.int32(hidden)
        with self._stream():
            grid = -(-hidden // SUM_THREADS), num_tokens
            self._launch("scatter", DTYPE_NAMES[part_PH.dtype], grid, SUM_THREADS, arguments)
        return out_TH

    def _stream(self) -> Any:
        """Torch's current stream as CuPy's: same queue, so nothing has to be waited for between the two."""
        return self._cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)

    def _launch(self, name: str, dtype: str, grid: tuple[int, int], threads: int, arguments: tuple[Any, ...]) -> None:
        key = f"{name} {dtype}"
        if key not in self._functions:
            module = self._cupy.RawModule(code=cuda_source.SOURCE, options=cuda_source.options(dtype))
            self._functions |= {f"{kernel} {dtype}": module.get_function(kernel) for kernel in KERNELS}
        self._functions[key](grid, (threads,), arguments)
