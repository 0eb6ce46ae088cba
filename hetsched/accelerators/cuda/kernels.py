"""Decode on the GPU by raw kernels: one layer's resident experts for at most four tokens each in two launches.

Shapes: T tokens, P pairs of token and expert, N experts, H hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...errors import MissingDependencyError
from . import source as cuda_source
from .activation import Activation
from .experts import DTYPE_NAMES, Experts, Reading, Stored, Weights, addresses, layer_of
from .loads import Load
from .source import KERNELS, SCATTER, SUM_THREADS, THREADS, UNPACK_THREADS, WARPS

INSTALL = 'pip install "hetsched[cuda13]" nvidia-cuda-nvrtc'


def compiled(load: Load | None, dtype: str, arch: int) -> bytes:
    """The kernels of a format (of None: the sum) as a cubin for compute capability `arch` (80: 8.0), by NVRTC.

    Needs no GPU. Raises RuntimeError with the compiler's log, MissingDependencyError without CuPy.
    """
    try:
        from cupy_backends.cuda.libs import nvrtc
    except ImportError as error:
        raise MissingDependencyError("cupy", "compiling the CUDA kernels", INSTALL) from error
    program = nvrtc.createProgram(cuda_source.source_of(load), "hetsched.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*cuda_source.options(dtype), f"--gpu-architecture=sm_{arch}"))
        cubin: bytes = nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"NVRTC: {nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
    return cubin


class NotCompiled(RuntimeError):
    """CuPy could not make the kernels here."""


class DecodeKernels:
    """The compiled kernels on torch's current device and stream. Results do not depend on timing: every sum has one
    order. What needs a kernel that cannot be compiled raises NotCompiled."""

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError as error:
            raise MissingDependencyError("cupy", "the decode kernels", INSTALL) from error
        self._cupy: Any = cupy
        self._functions: dict[tuple[str, Load | None, str], Callable[..., None]] = {}

    def parts(
        self,
        reading: Reading,
        experts: Experts,
        activation: Activation,
        hidden_TH: torch.Tensor,
        row_P: torch.Tensor,
        weight_P: torch.Tensor,
    ) -> torch.Tensor:
        """down(act(gate(x)) * up(x)) * router weight of each pair: [P, H]. All on the device, `row_P` int64.

        `reading`: of each of the experts; see reading_of.
        """
        layer, (pairs, hidden), ffn = layer_of(experts), (len(row_P), hidden_TH.shape[1]), reading.down.columns
        act_PF = hidden_TH.new_empty((pairs, ffn))
        part_PH = hidden_TH.new_empty((pairs, hidden))
        router_P = weight_P.reshape(-1).to(torch.float32)
        count, dtype = len(experts.weights), DTYPE_NAMES[hidden_TH.dtype]
        constants = np.int32(activation.kind), np.float32(activation.alpha), np.float32(activation.limit)
        with self._stream():
            matrices = layer, reading.up.packed(), reading.order()
            pointers = hidden_TH.data_ptr(), row_P.data_ptr(), act_PF.data_ptr()
            gate_up, down = (
                self._function(name, matrix.load, dtype)
                for name, matrix in (("gate_up", reading.up), ("down", reading.down))
            )
            gate_up((-(-ffn // WARPS), count), (THREADS,), (*matrices, *pointers, *constants))
            pointers = act_PF.data_ptr(), router_P.data_ptr(), part_PH.data_ptr()
            down((-(-hidden // WARPS), count), (THREADS,), (layer, reading.down.packed(), *pointers))
        return part_PH

    def unpacked(self, reading: Reading, weights: Weights, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """An expert's matrices as its module orders them, [2F, H] and [H, F], rounded to the dtype of `like`, on its
        device."""
        up, down = reading.up, reading.down
        up_FH, down_HF = like.new_empty((2 * down.columns, up.columns)), like.new_empty((down.rows, down.columns))
        gate_at, up_at, down_at = addresses(weights)[:3]
        with self._stream():
            if gate_at == up_at:
                self._unpack(up, up_at, up_FH, 0, 1)
            else:
                first, step = (1, 2) if reading.turns else (down.columns, 1)
                self._unpack(up, gate_at, up_FH, 0, step)
                self._unpack(up, up_at, up_FH, first, step)
            self._unpack(down, down_at, down_HF, 0, 1)
        return up_FH, down_HF

    def scatter(self, part_PH: torch.Tensor, row_P: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """Each token's parts added in the order given, as eager adds them: [T, H]."""
        pairs, hidden = part_PH.shape
        out_TH = part_PH.new_empty((num_tokens, hidden))
        arguments = part_PH.data_ptr(), row_P.data_ptr(), out_TH.data_ptr(), np.int32(pairs), np.int32(hidden)
        with self._stream():
            scatter = self._function(SCATTER, None, DTYPE_NAMES[part_PH.dtype])
            scatter((-(-hidden // SUM_THREADS), num_tokens), (SUM_THREADS,), arguments)
        return out_TH

    def _unpack(self, matrix: Stored, address: int, out: torch.Tensor, first: int, step: int) -> None:
        """Row r of a matrix becomes row first + r * step of `out`."""
        threads = matrix.rows * matrix.columns // matrix.load.chunk
        unpack = self._function("unpack", matrix.load, DTYPE_NAMES[out.dtype])
        arguments = address, matrix.packed(), out.data_ptr(), np.int32(first), np.int32(step)
        unpack((-(-threads // UNPACK_THREADS),), (UNPACK_THREADS,), arguments)

    def _stream(self) -> Any:
        """Torch's current stream as CuPy's: same queue, so nothing has to be waited for between the two."""
        return self._cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)

    def _function(self, name: str, load: Load | None, dtype: str) -> Callable[..., None]:
        key = name, load, dtype
        if key not in self._functions:
            code, options = cuda_source.source_of(load), cuda_source.options(dtype)
            kernels = (SCATTER,) if load is None else KERNELS
            try:
                module = self._cupy.RawModule(code=code, options=options)
                made = {(kernel, load, dtype): module.get_function(kernel) for kernel in kernels}
            except Exception as error:  # CuPy's own, its compiler's, or a library that is not there
                raise NotCompiled(f"the decode kernels did not compile: {str(error).splitlines()[-1:]}") from error
            self._functions |= made
        return self._functions[key]
