"""cuda: one GPU through torch.cuda, which is CUDA or ROCm. What torch does here better than by its neutral names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...errors import InputError, MissingDependencyError
from ...machine.profile import HardwareProfile
from ..streams.device import CHUNK_BYTES, StreamAccelerator
from ..streams.queues import Queues
from .decode import CudaDecode


class CudaQueues(Queues):
    """CUDA and ROCm: events whose waiters sleep in the driver, host memory pinned in place."""

    @property
    def name(self) -> str:
        """The GPU's name."""
        return torch.cuda.get_device_name(self.device)

    def stream(self) -> Any:
        """A stream that does not synchronise with the default one."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def current(self) -> Any:
        """The calling thread's stream, as torch.cuda's own kind: events of this class go with no other."""
        return torch.cuda.current_stream(self.device)

    def event(self) -> Any:
        """An event with time; its waiter sleeps (torch.Event has no such choice, and CUDA's default spins)."""
        return torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]

    def wait(self, event: Any) -> None:
        """Sleep in the driver until the event has come. Raises what went wrong on the device before it."""
        event.synchronize()

    def copy(self, stream: Any, source: torch.Tensor, target: torch.Tensor) -> None:
        """cudaMemcpyAsync on the stream."""
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def run(self, stream: Any, kernel: Callable[[], Any]) -> Any:
        """Call a function whose launches go to `stream`; from another thread than the caller's, too."""
        with torch.cuda.stream(stream):
            return kernel()

    def pin(self, memory: torch.Tensor) -> bool:
        """cudaHostRegister; False when the driver refuses."""
        error = torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel() * memory.element_size(), 0)  # type: ignore[no-untyped-call]
        if int(error) == 0:
            return True
        try:
            torch.zeros(1, device=self.device)
        except RuntimeError:
            return False  # the launch took the refusal off the runtime; else a later one would report it as its own
        return False

    def unpin(self, memory: torch.Tensor) -> None:
        """cudaHostUnregister."""
        torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())  # type: ignore[no-untyped-call]


class CudaAccelerator(StreamAccelerator):
    """One GPU through torch.cuda, which is CUDA or ROCm. `profile`: the machine's, for its link's chunk and limits.

    `raw_kernels`: decode by hetsched's own kernels instead of torch's, until they have been measured on hardware.
    Packed experts are decoded by them wherever CuPy is: torch would have to unpack each of them first.

    Raises MissingDependencyError for a torch without CUDA, InputError without a GPU.
    """

    def __init__(
        self,
        profile: HardwareProfile | None = None,
        capacity_bytes: int | None = None,
        device: int = 0,
        raw_kernels: bool = False,
    ) -> None:
        require_gpu(device)
        link = profile.h2d if profile is not None else None
        super().__init__(
            CudaQueues(torch.device("cuda", device)),
            capacity_bytes,
            link.chunk_bytes if link is not None else CHUNK_BYTES,
            (profile.pinnable_bytes or None) if profile is not None else None,
            own_kernels(raw_kernels),
        )


def own_kernels(plain: bool) -> CudaDecode | None:
    """The decode kernels: for all experts, else for packed ones and only where CuPy is. Raises as CudaDecode does."""
    try:
        return CudaDecode(plain=plain)
    except MissingDependencyError:
        if plain:
            raise
        return None


def require_gpu(device: int = 0) -> None:
    """Raises what keeps torch from using that GPU, in one line."""
    if torch.version.cuda is None and torch.version.hip is None:
        command = "pip install torch --index-url https://download.pytorch.org/whl/cu130"
        raise MissingDependencyError("a torch with CUDA", "accelerator 'cuda'", command)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device >= count:
        raise InputError(
            f"GPU {device} was asked for and torch finds {count}; check the driver with nvidia-smi, "
            "or take accelerator='emulated' or 'cpu'"
        )
