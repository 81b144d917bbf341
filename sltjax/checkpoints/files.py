"""Checkpoints in files, one or a folder of them a step; what is read from a file is a matter of its format."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sltjax.checkpoints.damage import wrong_content
from sltjax.checkpoints.leaves import Path, Shape, compare, flatten, shapes
from sltjax.checkpoints.listing import (
    Child,
    Found,
    by_step,
    children,
    is_temporary,
    nothing,
    one_a_step,
    open_root,
    pickled,
    step_in,
)
from sltjax.checkpoints.names import Naming, Rename, Transform, naming
from sltjax.checkpoints.source import Skipped
from sltjax.checkpoints.stored import StoredCheckpoints, first_sound
from sltjax.types import Params

if TYPE_CHECKING:
    from etils import epath

LOOKED_AT = 16
OTHERS = (".safetensors", ".npz")

Read: TypeAlias = "Callable[[epath.Path, Callable[[str], bool]], Mapping[str, np.ndarray]]"
"""(file or folder, whether to read a name) -> tensors by name; raises `DamagedError` where it is not sound."""


@dataclass(frozen=True)
class Format:
    """How one kind of file holds checkpoints.

    Attributes:
        suffix: what names of its files end in.
        parts: what names of all files end in that a checkpoint is made of.
        read: reads one checkpoint.
        fault: why a file of that suffix is no checkpoint by itself, by its name, or None.
        children: what lies in a folder that may be a checkpoint.
        expected: the layouts, for messages.
    """

    suffix: str
    parts: tuple[str, ...]
    read: Read
    fault: Callable[[str], str | None]
    children: "Callable[[epath.Path], list[Child]]"
    expected: str

    def is_part(self, name: str) -> bool:
        """Return whether a file of such a name is part of a checkpoint."""
        return name.endswith(self.parts) and not is_temporary(name) and not name.startswith(".")


def candidates(root: "epath.Path", suffix: str) -> list[Child]:
    """Return what may be a checkpoint, or may be taken for one; other files, such as a README, are not spoken of."""

    def told(child: Child) -> bool:
        name = child.name
        if is_temporary(name) or name.startswith("."):
            return is_temporary(name)
        return name.endswith((suffix, *OTHERS)) or pickled(name) is not None or child.place.is_dir()

    return [child for child in children(root, suffix) if told(child)]


def open_files(
    path: str | os.PathLike[str],
    form: Format,
    rename: Rename | None,
    transform: Transform | None,
    like: Params | None,
) -> StoredCheckpoints:
    """Open what `from_safetensors` and `from_npz` open, and raise what they raise."""
    named = naming(rename, transform, like)
    root = open_root(path)
    found, skipped = _scan(root, form)
    places, repeated = one_a_step(found, partial(_read, form=form, named=named, expected=None))
    expected = None if like is None else shapes(flatten(like))
    read = partial(_read, form=form, named=named)
    agreed = first_sound(places, lambda place: shapes(read(place, expected=expected)))
    return StoredCheckpoints(
        name=str(root),
        places=places,
        skipped=(*skipped, *repeated),
        read=partial(read, expected=agreed),
        problems=partial(_problems, form=form),
        like=like,
    )


def holds_files(root: "epath.Path", form: Format) -> bool:
    """Return whether a file is of this format, or a folder holds checkpoints of it, by names alone."""
    if not root.is_dir():
        return form.is_part(root.name)
    steps = (child for child in form.children(root) if child.step is not None and not is_temporary(child.name))
    return any(_fault(form, child) is None for child in islice(steps, LOOKED_AT)) or _holds(root, form)


def _read(
    place: "epath.Path", form: Format, named: Naming, expected: Mapping[Path, Shape] | None
) -> dict[Path, np.ndarray]:
    leaves = named.leaves(form.read(place, named.keeps))
    if expected is not None:
        compare(shapes(leaves), expected)
    return leaves


def _scan(root: "epath.Path", form: Format) -> tuple[Found, list[Skipped]]:
    alone = Child(root.name, root, step_in(root.name.removesuffix(form.suffix)))
    if not root.is_dir():
        if not root.name.endswith(form.suffix):
            what = pickled(root.name) or f"no {form.suffix} file"
            raise nothing(root, [Skipped(root.name, f"it is {what}")], form.expected)
        return {alone.step or 0: [alone]}, []
    found, skipped = by_step(form.children(root), partial(_fault, form))
    if not found and _holds(root, form):
        return {alone.step or 0: [alone]}, [s for s in skipped if not form.is_part(s.name)]
    if not found:
        raise nothing(root, skipped, form.expected)
    return found, skipped


def _fault(form: Format, child: Child) -> str | None:
    if not child.place.exists():
        return "it leads to nothing: it was never downloaded, or is gone"
    if not child.place.is_dir():
        name = child.place.name
        return form.fault(name) if name.endswith(form.suffix) else f"it is no {form.suffix} file"
    if _holds(child.place, form):
        return None
    pickles = sorted(file.name for file in child.place.iterdir() if pickled(file.name))
    return f"no {form.suffix} file lies in it" + (f", and {pickles[0]} is {pickled(pickles[0])}" if pickles else "")


def _holds(folder: "epath.Path", form: Format) -> bool:
    return any(form.is_part(file.name) for file in folder.iterdir())


def _problems(place: "epath.Path", form: Format) -> Iterator[str]:
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    for file in files:
        if form.is_part(file.name) and (what := wrong_content(file)):
            yield f"{file.name} {what}."
