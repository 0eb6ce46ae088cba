"""The device of threads as a library: compiled where it has not been, without Python's headers, then loaded."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).with_name("queue_device.cpp")
# Most of the time goes into torch's headers; what the device does itself is waiting, at any level of optimisation.
COMMAND = ("c++", "-O0", "-std=c++20", "-fPIC", "-shared")


def device_library() -> ctypes.CDLL:
    """Loading it is what registers the device with torch."""
    library = ctypes.CDLL(str(_built()))
    library.set_rate.argtypes = [ctypes.c_double]
    library.host_node.argtypes = [ctypes.c_int64, ctypes.c_size_t, ctypes.c_size_t]
    library.set_rate.restype = library.host_node.restype = None
    return library


def _built() -> Path:
    """Kept with Python's own compiled files, by all that it is made of."""
    made_of = SOURCE.read_bytes() + repr((COMMAND, torch.__version__, torch.__file__)).encode()
    library = SOURCE.parent / "__pycache__" / f"queue_device-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}.tmp")
        headers = [f"-isystem{path}" for path in include_paths()]
        headers.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")  # as torch was built
        libraries = [*(f"-L{path}" for path in library_paths()), "-lc10", "-ltorch_cpu"]
        command = [*COMMAND, *headers, SOURCE, *libraries, "-o", part]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        part.replace(library)
    return library
