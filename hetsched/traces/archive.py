"""Arrays inside .npz files, mapped instead of read where they are large, and written so that they can be mapped.

A stored (uncompressed) member is mapped at its place in the zip file. A compressed one is read whole when small, and
else unpacked, in chunks, into a file without a name in the user cache folder (where that cannot be written, in the
system's folder for temporary files) and mapped there: the system frees it with the last array of it, or the process.
"""

from __future__ import annotations

import io
import math
import os
import shutil
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
from ..reading import BINARY, HEAD_BYTES, ZIP, kind_of, open_regular

READ_WHOLE_BYTES = 256 << 20  # compressed members up to this size are read into memory
META_BYTES = 64 << 20  # of the meta text, which is stored at four bytes a character
ALIGN_BYTES = 64
_CHUNK_BYTES = 1 << 20
_LOCAL_HEADER = 30  # bytes of a zip local file header before name and extra field
_ZIP64_EXTRA = 20
_PADDING_ID = 0xD935  # extra-field id that zipalign uses for padding
_TRACE = "a routing trace (.npz)"
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


def read_arrays(path: str | Path, names: Iterable[str] | None = None, what: str = _TRACE) -> dict[str, Array]:
    """Those of the named arrays that the .npz file holds (None: all); large ones are read-only views of the file.

    `what`: the file ought to be, for messages.

    The file must not be changed in place while they are used (replacing it is safe). Raises InputError for a file that
    is no .npz, is damaged, or holds pickles.
    """
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; give {what}")
    try:
        with open_regular(path, what) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = members if names is None else members.keys() & set(names)
            return {name: _member(archive, file, members[name]) for name in sorted(wanted)}
    except InputError:
        raise
    except _DAMAGE as error:
        with open_regular(path, what) as file:
            kind = kind_of(file.read(HEAD_BYTES))
        if kind not in ("", ZIP, BINARY):
            raise InputError(f"{path} is {kind}, not {what}; name another file") from error
        raise InputError(f"{path}: not {what}, without pickles, or damaged: {error}; name another file") from error


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


def _member(archive: zipfile.ZipFile, file: IO[bytes], info: zipfile.ZipInfo) -> Array:
    if info.filename == "meta.npy" and info.file_size > META_BYTES:
        raise ValueError(f"its meta text has more than {META_BYTES:,} bytes")
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        return _mapped(file, _data_start(file, info), info.file_size)
    if info.file_size > READ_WHOLE_BYTES:
        with _unpacked(archive, info) as unpacked:
            return _mapped(unpacked, 0, info.file_size)
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


def _mapped(file: IO[bytes], start: int, num_bytes: int) -> Array:
    """The .npy array that starts at an offset of a file and has this many bytes with its header.

    The array keeps the file's contents, though the file be closed and its name removed.
    """
    file.seek(start)
    dtype, shape, order, _ = _layout(file, num_bytes)
    if 0 in shape or not dtype.itemsize:
        return np.empty(shape, dtype, order=order)
    return np.memmap(file, dtype, "r", file.tell(), shape, order).view(np.ndarray)


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


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """A compressed member's .npy file, unpacked into a file without a name: whatever happens, nothing is left of it."""
    folder = _unpacking_folder()
    free = shutil.disk_usage(folder).free
    if info.file_size > free:
        text = f"{info.filename} takes {info.file_size:,} bytes unpacked, and {folder} has {free:,} free"
        raise InputError(f"{archive.filename}: {text}; set HETSCHED_CACHE to a folder with more room")
    out = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, the caller closes it
    try:
        with archive.open(info) as member:
            while chunk := member.read(_CHUNK_BYTES):
                out.write(chunk)
        out.flush()
    except BaseException:
        out.close()
        raise
    return out


def _unpacking_folder() -> Path:
    try:
        return cache_folder("traces")
    except InputError:  # reading needs no cache of its own
        return Path(tempfile.gettempdir())
