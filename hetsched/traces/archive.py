"""Arrays inside .npz files, mapped instead of read where they are large, and written so that they can be mapped.

A stored (uncompressed) member is mapped at its place in the zip file. A compressed one is read whole when small, and
else unpacked once into the user cache folder, in chunks, and mapped there.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from ..cache import cache_folder
from ..errors import InputError
from ..files import replacing

READ_WHOLE_BYTES = 256 << 20  # compressed members up to this size are read into memory
ALIGN_BYTES = 64
_CHUNK_BYTES = 1 << 20
_LOCAL_HEADER = 30  # bytes of a zip local file header before name and extra field
_ZIP64_EXTRA = 20
_PADDING_ID = 0xD935  # extra-field id that zipalign uses for padding
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
)

Array = npt.NDArray[Any]


def read_arrays(path: str | Path, names: Iterable[str]) -> dict[str, Array]:
    """Those of the named arrays that the .npz file holds; large ones are read-only views of the file.

    The file must not be changed in place while they are used (replacing it is safe). Raises InputError for a file that
    is no .npz, is damaged, or holds pickles.
    """
    wanted = {f"{name}.npy": name for name in names}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename in wanted]
            return {wanted[info.filename]: _member(archive, Path(path), info) for info in members}
    except FileNotFoundError:
        raise InputError(f"{path}: no such trace file") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: not a routing trace (an .npz without pickles), or damaged: {error}") from error


def write_arrays(path: str | Path, arrays: Mapping[str, Array], *, compress: bool = False) -> None:
    """Write an .npz file atomically, in chunks, the same bytes for the same arrays; uncompressed members are aligned.

    Raises InputError where no regular file can be written.
    """
    with replacing(path) as temporary, temporary.open("xb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            _write_member(archive, file, name, array, compress)


def _write_member(archive: zipfile.ZipFile, file: IO[bytes], name: str, array: Array, compress: bool) -> None:
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    info.external_attr = 0o644 << 16
    before_padding = file.tell() + _LOCAL_HEADER + len(info.filename) + _ZIP64_EXTRA + 4
    padding = -before_padding % ALIGN_BYTES
    info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> Array:
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        with path.open("rb") as file:
            start = _data_start(file, info)
            return _mapped(path, file, start, info.file_size)
    if info.file_size > READ_WHOLE_BYTES:
        unpacked = _unpacked(archive, info)
        with unpacked.open("rb") as file:
            return _mapped(unpacked, file, 0, info.file_size)
    with archive.open(info) as member:
        data = member.read()
    dtype, shape, order, start = _layout(io.BytesIO(data), len(data))
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order=order)


def _data_start(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Offset of a member's bytes, which its local header says (the central directory may have other extra fields)."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no local header of {info.filename}")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
    return int(info.header_offset + _LOCAL_HEADER + name_bytes + extra_bytes)


def _mapped(path: Path, file: IO[bytes], start: int, num_bytes: int) -> Array:
    """The .npy array that starts at an offset of a file and has this many bytes with its header."""
    file.seek(start)
    dtype, shape, order, _ = _layout(file, num_bytes)
    if 0 in shape or not dtype.itemsize:
        return np.empty(shape, dtype, order=order)
    return np.memmap(path, dtype, "r", file.tell(), shape, order).view(np.ndarray)


def _layout(file: IO[bytes], num_bytes: int) -> tuple[np.dtype[Any], tuple[int, ...], Literal["F", "C"], int]:
    """Type, shape, order and header bytes of the .npy array at a file's position; the position then is its data."""
    start = file.tell()
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version} is not read")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read_header(file)
    except (tokenize.TokenError, SyntaxError, TypeError) as error:  # numpy parses the header as a literal of Python
        raise ValueError("an array's header is damaged") from error
    if dtype.hasobject:
        raise ValueError("it holds pickles, which are never loaded")
    header_bytes, data_bytes = file.tell() - start, math.prod(shape) * dtype.itemsize
    if header_bytes + data_bytes != num_bytes:
        raise ValueError(f"an array of {data_bytes} bytes stands in {num_bytes - header_bytes}")
    return dtype, shape, "F" if is_fortran else "C", header_bytes


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Path:
    """A compressed member's .npy file in the user cache folder, unpacked if it is not there; named by its contents."""
    stem = f"{info.CRC:08x}-{info.file_size}-{info.compress_size}"
    target = cache_folder("traces") / f"{stem}-{info.filename}"
    if target.exists() and target.stat().st_size == info.file_size:
        return target
    handle, temporary = tempfile.mkstemp(prefix=".unpacking-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as out, archive.open(info) as member:
            while chunk := member.read(_CHUNK_BYTES):
                out.write(chunk)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target
