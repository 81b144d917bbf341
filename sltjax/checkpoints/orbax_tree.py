"""One pytree as orbax stores it in a folder: a table of its leaves, and one array a leaf.

The arrays are opened with tensorstore, orbax's own storage layer, and not through orbax's handlers: those open every
leaf, the optimizer's too, and on a damaged file leave event loops behind that print tracebacks from other threads.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sltjax.checkpoints.leaves import Path

if TYPE_CHECKING:
    import tensorstore
    from etils import epath

METADATA = "_METADATA"
MANIFEST = "manifest.ocdbt"
SEQUENCE_KEY = 1


@dataclass(frozen=True)
class StoredTree:
    """The table of leaves in a folder.

    Attributes:
        folder: where it lies.
        kinds: the type of each leaf as it was saved, by path: "jax.Array", "np.ndarray", "scalar" or "string".
        ocdbt: whether all arrays share one database, and not a folder each.
        driver: the array format, "zarr" or "zarr3".
        sparse: whether chunks that hold only the fill value were left out when saving.
    """

    folder: "epath.Path"
    kinds: Mapping[Path, str]
    ocdbt: bool
    driver: str
    sparse: bool

    def open(self, paths: Iterable[Path]) -> "dict[Path, tensorstore.TensorStore]":
        """Open leaves for reading, which tells their shapes and dtypes but reads no weights.

        Raises:
            ValueError: as tensorstore words it, when one is missing or damaged.
        """
        import tensorstore

        opening = {path: tensorstore.open(self._spec(path), open=True, read=True) for path in paths}
        return {path: future.result() for path, future in opening.items()}

    def _spec(self, path: Path) -> dict[str, Any]:
        return {
            "driver": self.driver,
            "kvstore": self._store(".".join(map(str, path))),
            "fill_missing_data_reads": self.sparse,
        }

    def _store(self, array: str) -> dict[str, Any] | str:
        if self.ocdbt:
            return {"driver": "ocdbt", "base": _location(self.folder), "path": f"{array}/"}
        return _location(self.folder / array)


def open_tree(folder: "epath.Path") -> StoredTree:
    """Read the table of leaves in a folder. Empty containers and None hold no leaf.

    Raises:
        FileNotFoundError: the folder has no such table.
        ValueError, KeyError: the table is damaged.
    """
    table = json.loads((folder / METADATA).read_text())
    ocdbt = table.get("use_ocdbt")
    return StoredTree(
        folder=folder,
        kinds={
            _path(entry): entry["value_metadata"]["value_type"]
            for entry in table["tree_metadata"].values()
            if not entry["value_metadata"]["skip_deserialize"]
        },
        ocdbt=(folder / MANIFEST).exists() if ocdbt is None else ocdbt,
        driver="zarr3" if table.get("use_zarr3") else "zarr",
        sparse=not table.get("store_array_data_equal_to_fill_value", False),
    )


def read(arrays: "Mapping[Path, tensorstore.TensorStore]") -> dict[Path, np.ndarray]:
    """Read opened leaves to the host, all at once."""
    reading = {path: array.read() for path, array in arrays.items()}
    return {path: np.asarray(future.result()) for path, future in reading.items()}


def _path(entry: Mapping[str, Any]) -> Path:
    keys = entry["key_metadata"]
    return tuple(int(k["key"]) if k["key_type"] == SEQUENCE_KEY else str(k["key"]) for k in keys)


def _location(folder: "epath.Path") -> dict[str, Any] | str:
    text = os.fspath(folder)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if text.startswith("s3://") and endpoint:
        # Every other reader of S3 minds these variables; tensorstore must be told.
        bucket, _, path = text.removeprefix("s3://").partition("/")
        return {"driver": "s3", "bucket": bucket, "path": f"{path}/", "endpoint": endpoint}
    return f"{text}/" if "://" in text else {"driver": "file", "path": f"{text}/"}
