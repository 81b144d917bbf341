"""Checkpoints in safetensors files: one a step, folders of shards, branches in a cache of the Hugging Face hub."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from sltjax.checkpoints.damage import PICKLED, DamagedError
from sltjax.checkpoints.files import Format, candidates, holds_files, open_files
from sltjax.checkpoints.listing import Child, is_temporary, step_in
from sltjax.checkpoints.names import Rename, Transform
from sltjax.checkpoints.source import printable
from sltjax.checkpoints.stored import StoredCheckpoints
from sltjax.types import Params

if TYPE_CHECKING:
    from etils import epath

SUFFIX = ".safetensors"
WHOLE = "model.safetensors"
TABLE = ".safetensors.index.json"
SHARD = re.compile(r".*-\d+-of-\d+\.safetensors")
ZIP = b"PK\x03\x04"
LISTED = 4

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "F8_E4M3FNUZ": jnp.float8_e4m3fnuz,
    "F8_E5M2FNUZ": jnp.float8_e5m2fnuz,
    "F8_E8M0": jnp.float8_e8m0fnu,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "C64": np.complex64,
}


def from_safetensors(
    path: str | os.PathLike[str],
    *,
    rename: Rename | None = None,
    transform: Transform | None = None,
    like: Params | None = None,
) -> StoredCheckpoints:
    r"""Open training checkpoints in safetensors files; nothing is changed, and no pickle is ever opened.

    A step is a file (`step_000100.safetensors`, `model-100.safetensors`), a folder (`checkpoint-100`, `step100`) with
    one such file or with shards and their `model.safetensors.index.json`, or a branch (`step100`) in the folder
    `models--org--name` that the Hugging Face hub's cache has for a model. What is itself one file or one such folder
    is taken as one step: the number in its name, or 0.

    Names of tensors are paths whose parts are set apart by dots or slashes: `layers.0.weight` and `layers/0/weight`
    are `params["layers"][0]["weight"]`. Without `like`, parts become nested dicts, with lists where the indices of a
    list are complete. The names that torch gives its layers and those of a JAX model differ as a rule, and so do
    layouts: `torch.nn.Linear` holds its weight as [out, in]. Hence `rename` and `transform`.

    Args:
        path: the folder or file, on a disk or in a bucket (`gs://`, `s3://`).
        rename: where each tensor belongs. A dict of regular expressions, of which the first to match a whole name
            replaces it, as in `{r".*\.mask": None, r"transformer\.h\.(\d+)\.(.*)": r"blocks/\1/\2"}`; None leaves a
            tensor out, names that none matches stay. Or a function of the name, which returns a new one, a path as
            a tuple of keys, or None.
        transform: (name, array) -> array, as in `lambda name, w: w.T if name.endswith("proj.weight") else w`; the name
            is the stored one.
        like: parameters, or `jax.ShapeDtypeStruct`s, in the tree to return, whose leaves must be those stored, no more
            and no less. By default every checkpoint must have the leaves of the first.

    Returns:
        The source. A damaged checkpoint raises at `load` and not here. Arrays keep their dtypes, bfloat16 and the
        8-bit floats too. Flipped bits within an array cannot be detected: the format has no checksum. A file is
        read whole, so a load takes up to twice its size in memory for a moment.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it holds no finished checkpoint, or two different ones for a step; a pattern is no regular
            expression.
        MismatchError: no checkpoint has the leaves of `like`, or two tensors have one place; a `ValueError` too.
    """
    return open_files(path, FORMAT, rename, transform, like)


def holds_safetensors(root: "epath.Path") -> bool:
    """Return whether a folder holds safetensors files with checkpoints, or is one, by names alone."""
    return holds_files(root, FORMAT)


def _children(root: "epath.Path") -> list[Child]:
    refs, snapshots = root / "refs", root / "snapshots"
    if not (refs.is_dir() and snapshots.is_dir()):
        return candidates(root, SUFFIX)
    there = {snapshot.name: snapshot for snapshot in snapshots.iterdir()}
    return [
        Child(ref.name, there.get(_commit(ref), snapshots / ref.name), step_in(ref.name))
        for ref in refs.iterdir()
        if not ref.is_dir()
    ]


def _commit(ref: "epath.Path") -> str:
    return ref.read_bytes().decode(errors="replace").strip()


def _fault(name: str) -> str | None:
    if SHARD.fullmatch(name):
        return "it is one shard of a checkpoint, and these must lie in a folder of their own"
    return None


def _read(place: "epath.Path", keeps: Callable[[str], bool]) -> dict[str, np.ndarray]:
    if not place.is_dir():
        return _arrays(place, _stored(place), keeps)
    names = sorted(file.name for file in place.iterdir() if not is_temporary(file.name))
    files = [name for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
    tables = [name for name in names if name.endswith(TABLE)]
    if WHOLE not in files and len(tables) == 1:
        return _read_shards(place / tables[0], keeps)
    whole = [WHOLE] if WHOLE in files else files
    if len(whole) != 1 or SHARD.fullmatch(whole[0]):
        there = ", ".join((tables or whole)[:LISTED])
        raise DamagedError(f"{place.name} holds {there}, expected {WHOLE}, one other file, or shards and one {TABLE}")
    return _arrays(place / whole[0], _stored(place / whole[0]), keeps)


def _read_shards(table: "epath.Path", keeps: Callable[[str], bool]) -> dict[str, np.ndarray]:
    shards = _shards(table)
    there = {file.name for file in table.parent.iterdir() if file.exists()}
    if missing := sorted(printable(shard) for shard in shards if shard not in there):
        raise DamagedError(f"{table.name} names shards that are missing: {', '.join(missing[:LISTED])}")
    arrays: dict[str, np.ndarray] = {}
    for shard, names in sorted(shards.items()):
        if not any(map(keeps, names)):
            continue
        stored = _stored(table.parent / shard)
        if differing := sorted(map(printable, names ^ set(stored))):
            raise DamagedError(f"{shard} has other tensors than {table.name} says: {', '.join(differing[:LISTED])}")
        arrays |= _arrays(table.parent / shard, stored, keeps)
    return arrays


def _shards(table: "epath.Path") -> dict[str, set[str]]:
    """Return the names of the tensors in each shard."""
    try:
        entries = json.loads(table.read_text())["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{table.name} is no table of shards: {type(error).__name__}: {error}") from error
    shards: dict[str, set[str]] = {}
    for name, shard in entries:
        if not isinstance(shard, str) or not shard.endswith(SUFFIX) or "/" in shard or "\\" in shard:
            raise DamagedError(f"{table.name} names {printable(str(shard))} as a shard, expected a file beside it")
        shards.setdefault(shard, set()).add(name)
    return shards


def _stored(file: "epath.Path") -> dict[str, Mapping[str, Any]]:
    """Return what safetensors finds in a file: dtype, shape and bytes of each tensor.

    The file is read whole and not mapped into memory: where one is cut short while it is mapped, the process dies.
    """
    from safetensors import SafetensorError, deserialize

    content = file.read_bytes()
    header = int.from_bytes(content[:8], "little")
    if content.startswith(ZIP):
        raise DamagedError(f"{file.name} is a zip archive, as torch.save makes of {PICKLED}")
    if header > len(content) - 8:
        raise DamagedError(
            f"{file.name} is cut short or something else: it has {len(content)} bytes, fewer than the {header} that "
            "its header alone is said to have"
        )
    try:
        return dict(sorted(deserialize(content)))
    except SafetensorError as error:
        reason = str(error).rpartition("deserializing: ")[2]
        raise DamagedError(f"{file.name}, of {len(content)} bytes, is not as its header says: {reason}") from error


def _arrays(
    file: "epath.Path", stored: Mapping[str, Mapping[str, Any]], keeps: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    kept = {name: tensor for name, tensor in stored.items() if keeps(name)}
    if strange := sorted(printable(name) for name, tensor in kept.items() if tensor["dtype"] not in DTYPES):
        dtypes = sorted({kept[name]["dtype"] for name in kept if kept[name]["dtype"] not in DTYPES})
        raise DamagedError(
            f"{file.name} has tensors of {', '.join(dtypes)}, which numpy has not: {', '.join(strange[:LISTED])}"
        )
    return {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in kept.items()
    }


FORMAT = Format(
    suffix=SUFFIX,
    parts=(SUFFIX, TABLE),
    read=_read,
    fault=_fault,
    children=_children,
    expected=(
        "files such as step_100.safetensors, folders such as checkpoint-100 that hold model.safetensors or shards, or "
        "the folder of a model in the Hugging Face cache, with branches such as step100"
    ),
)
