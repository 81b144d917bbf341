"""Checkpoints in numpy's .npz files, one a step, without the Python objects that such files may hold."""

import math
import os
import zipfile
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from sltjax.checkpoints.damage import PICKLED, DamagedError
from sltjax.checkpoints.files import Format, candidates, holds_files, open_files
from sltjax.checkpoints.listing import pickled
from sltjax.checkpoints.names import Rename, Transform
from sltjax.checkpoints.source import CheckpointError, printable
from sltjax.checkpoints.stored import StoredCheckpoints
from sltjax.types import Params

if TYPE_CHECKING:
    from etils import epath

SUFFIX = ".npz"
ARRAY = ".npy"
USUAL = "params.npz"
LISTED = 4
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
DEFLATES = 1100  # no sound deflated file is shorter than its content by a larger factor


def from_npz(
    path: str | os.PathLike[str],
    *,
    rename: Rename | None = None,
    transform: Transform | None = None,
    like: Params | None = None,
) -> StoredCheckpoints:
    """Open training checkpoints in .npz files; nothing is changed, and no pickle is ever opened.

    A step is a file (`step_000100.npz`) or a folder (`100`) with one such file, or with `params.npz` among others.
    What is itself one file or one such folder is taken as one step: the number in its name, or 0.

    Keys are paths whose parts are set apart by dots or slashes: `layers/0/w` and `layers.0.w` are
    `params["layers"][0]["w"]`. See `from_safetensors` for what becomes of them, for `rename` and for `transform`.

    Args:
        path: the folder or file, on a disk or in a bucket (`gs://`, `s3://`).
        rename: where each array belongs; see `from_safetensors`.
        transform: (key, array) -> array.
        like: parameters, or `jax.ShapeDtypeStruct`s, in the tree to return, whose leaves must be those stored, no more
            and no less. By default every checkpoint must have the leaves of the first.

    Returns:
        The source. A damaged checkpoint raises at `load` and not here; arrays have checksums. numpy stores bfloat16 as
        two bytes without a type, which are read as bfloat16; of the 8-bit floats it keeps no more than the bytes, for
        `transform` to interpret: `lambda key, w: w.view(jnp.float8_e4m3fn)`.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it holds no finished checkpoint, or two different ones for a step; a pattern is no regular
            expression.
        MismatchError: no checkpoint has the leaves of `like`, or two arrays have one place; a `ValueError` too.
    """
    return open_files(path, FORMAT, rename, transform, like)


def holds_npz(root: "epath.Path") -> bool:
    """Return whether a folder holds .npz files with checkpoints, or is one, by names alone."""
    return holds_files(root, FORMAT)


def _read(place: "epath.Path", keeps: Callable[[str], bool]) -> dict[str, np.ndarray]:
    file = _file(place) if place.is_dir() else place
    try:
        with file.open("rb") as content, zipfile.ZipFile(content) as archive:
            length = content.seek(0, os.SEEK_END)
            entries = _entries(archive)
            return {key: _array(archive, entry, length) for key, entry in entries.items() if keeps(key)}
    except (CheckpointError, OSError, MemoryError):
        raise
    except DamagedError as error:
        raise DamagedError(f"{file.name}: {error}") from error
    except Exception as error:  # zipfile, zlib and numpy have many, each for the same
        raise DamagedError(f"{file.name} is no sound .npz file: {type(error).__name__}: {error}") from error


def _file(folder: "epath.Path") -> "epath.Path":
    names = sorted(file.name for file in folder.iterdir() if FORMAT.is_part(file.name))
    if len(names) != 1 and USUAL not in names:
        raise DamagedError(f"{folder.name} holds {', '.join(names[:LISTED])}, expected {USUAL} or one other file")
    return folder / (USUAL if USUAL in names else names[0])


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        key = entry.filename.removesuffix(ARRAY)
        if key == entry.filename:
            raise DamagedError(f"{printable(key)} in it is {pickled(key) or 'no array'}")
        if key in entries:
            raise DamagedError(f"{printable(key)} is in it twice")
        entries[key] = entry
    return entries


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, length: int) -> np.ndarray:
    key = printable(entry.filename.removesuffix(ARRAY))
    if entry.compress_type not in METHODS:
        raise DamagedError(f"{key} is compressed in a way that numpy does not use")
    if entry.compress_size > length or entry.file_size > DEFLATES * (entry.compress_size + 1):
        raise DamagedError(f"{key} claims {entry.file_size} bytes, more than a file of {length} can hold")
    with archive.open(entry) as member:
        shape, _, dtype = HEADERS[np.lib.format.read_magic(member)](member)
        if dtype.hasobject:
            raise DamagedError(f"{key} holds Python objects, that is {PICKLED}")
        claimed, there = math.prod(shape) * dtype.itemsize, entry.file_size - member.tell()
        if claimed != there:
            raise DamagedError(f"{key} claims {claimed} bytes as {dtype} of shape {shape}, and has {there}")
    with archive.open(entry) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
    return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array


FORMAT = Format(
    suffix=SUFFIX,
    parts=(SUFFIX,),
    read=_read,
    fault=lambda name: None,
    children=partial(candidates, suffix=SUFFIX),
    expected="files such as step_100.npz, or folders such as 100 that hold params.npz",
)
