"""The formats of checkpoints by the names that a recipe has for them, and which of them lies in a folder."""

import os
from collections.abc import Callable

from sltjax.checkpoints import Source, from_npz, from_orbax, from_safetensors
from sltjax.checkpoints.listing import open_root
from sltjax.checkpoints.npz import holds_npz
from sltjax.checkpoints.orbax import holds_orbax
from sltjax.checkpoints.safetensors import holds_safetensors

FORMATS: dict[str, Callable[..., Source]] = {
    "orbax": from_orbax,
    "safetensors": from_safetensors,
    "npz": from_npz,
}
HOLDS = {"orbax": holds_orbax, "safetensors": holds_safetensors, "npz": holds_npz}


def recognise(path: str | os.PathLike[str]) -> str:
    """Return which format the checkpoints in a folder have, by the names of what lies there; "orbax" where none fits.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are checkpoints of several formats.
    """
    root = open_root(path)
    found = [name for name, holds in HOLDS.items() if holds(root)]
    if len(found) > 1:
        raise ValueError(f"{root} holds checkpoints of several formats ({', '.join(found)}): say which with `format`")
    return found[0] if found else "orbax"
