"""Folders of training checkpoints as orbax writes them, whichever of its interfaces wrote them."""

import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from sltjax.checkpoints.damage import wrong_content
from sltjax.checkpoints.leaves import Path, Shape, flatten, shapes
from sltjax.checkpoints.listing import (
    Child,
    Found,
    by_step,
    children,
    is_remote,
    nothing,
    one_a_step,
    open_root,
    step_in,
)
from sltjax.checkpoints.orbax_items import TEMPORARY, items_of, locate, open_selected, read_selected
from sltjax.checkpoints.orbax_tree import MANIFEST, METADATA
from sltjax.checkpoints.source import Skipped
from sltjax.checkpoints.stored import StoredCheckpoints, first_sound
from sltjax.types import Params

if TYPE_CHECKING:
    from etils import epath

COMMITTED = "commit_success.txt"
CHECKPOINT_METADATA = "_CHECKPOINT_METADATA"
EXPECTED = "one folder a step as orbax writes them, such as 100 or step_100: pass the folder that holds these"
LOOKED_AT = 16
SEARCHED = 1000


def from_orbax(path: str | os.PathLike[str], select: str = "params", like: Params | None = None) -> StoredCheckpoints:
    """Open a folder of training checkpoints that orbax wrote; nothing in it is changed.

    Any of orbax's interfaces will do: `CheckpointManager` with one item or several, `StandardCheckpointer` and
    `PyTreeCheckpointer` on folders named by step (`100`, `step_100`, `ckpt-000100`), `v1.training.Checkpointer`
    and `v1.save`. A folder that is itself one checkpoint is taken as one step: the number in its name, or 0.
    Only the parameters are read, never the optimizer state.

    Args:
        path: the folder, on a disk or in a bucket (`gs://`, `s3://`).
        select: the path to the parameters within a checkpoint, such as `params`, `state/params`, `model`; the
            name of the item it lies in may be left out. The empty string takes the whole tree.
        like: parameters, or `jax.ShapeDtypeStruct`s, in the tree to return; `nnx.State` and tuples need it. By
            default nested dicts and lists, and every checkpoint must have the leaves of the first.

    Returns:
        The source. A damaged checkpoint raises at `load` and not here. Flipped bits within an array that is not
        compressed cannot be detected: orbax stores no checksum of them.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no finished checkpoint, or two different ones for a step.
        MismatchError: no checkpoint has `select`, or the leaves of `like`; a `ValueError` too.
    """
    root = open_root(path)
    if not root.is_dir():
        raise ValueError(f"got {root}, which is a file; expected the folder that holds the checkpoints.")
    found, unfinished = _scan(root)
    select = select.strip("/")
    places, repeated = one_a_step(found, partial(read_selected, select=select, expected=None))
    select, expected = _agreed(places, select, like)
    return StoredCheckpoints(
        name=str(root),
        places=places,
        skipped=(*unfinished, *repeated),
        read=partial(read_selected, select=select, expected=expected),
        problems=_problems,
        like=like,
    )


def holds_orbax(root: "epath.Path") -> bool:
    """Return whether a folder holds checkpoints that orbax wrote, or is one, by names alone."""
    if not root.is_dir():
        return False
    steps = (child.place for child in children(root) if child.step is not None)
    return _is_checkpoint(root) or any(_incomplete(place) is None for place in islice(steps, LOOKED_AT))


def _scan(root: "epath.Path") -> tuple[Found, list[Skipped]]:
    if TEMPORARY not in root.name and _is_checkpoint(root):
        return {step_in(root.name) or 0: [Child(root.name, root, step_in(root.name))]}, []
    found, skipped = by_step(children(root), _unfinished())
    if not found:
        raise nothing(root, skipped, EXPECTED)
    return found, skipped


def _unfinished() -> Callable[[Child], str | None]:
    """Return what says why a folder is no finished checkpoint: once a save left its mark, later ones must have it."""
    marks = False

    def fault(child: Child) -> str | None:
        nonlocal marks
        if reason := _incomplete(child.place):
            return reason
        marked = (child.place / COMMITTED).exists()
        if not marked and (marks or is_remote(child.place) or _never_committed(child.place)):
            return f"it lacks the mark of a finished save ({COMMITTED})"
        marks = marks or marked
        return None

    return fault


def _incomplete(child: "epath.Path") -> str | None:
    if not child.is_dir():
        return "it is a file, and a checkpoint is a folder"
    if not any(child.iterdir()):
        return "it is an empty folder"
    if not any((item / METADATA).exists() for item in items_of(child).values()):
        return f"no {METADATA} lies in it: not a pytree that orbax stored, or never finished"
    return None


def _never_committed(folder: "epath.Path") -> bool:
    # Versions of orbax that leave no mark on a local disk note the time of the commit instead, or nothing at all.
    try:
        times = json.loads((folder / CHECKPOINT_METADATA).read_text())
        return times.get("commit_timestamp_nsecs", 0) is None
    except (OSError, ValueError, AttributeError):
        return False


def _is_checkpoint(folder: "epath.Path") -> bool:
    return bool(items := items_of(folder)) and (
        "" in items or "default" in items or (folder / CHECKPOINT_METADATA).exists()
    )


def _agreed(
    places: "Mapping[int, epath.Path]", select: str, like: Params | None
) -> tuple[str, Mapping[Path, Shape] | None]:
    """Return what holds for every checkpoint: where the parameters lie, and the leaves of the template or the first.

    The item is named from here on, so that a checkpoint without it cannot offer another item in its place.

    Raises:
        MismatchError: checkpoints can be read, but none has what is asked for; says what the first one has.
    """
    expected = None if like is None else shapes(flatten(like))

    def look(folder: "epath.Path") -> tuple[str, Mapping[Path, Shape]]:
        subtree = locate(folder, select)
        return subtree.select, shapes(open_selected(subtree, expected))

    return first_sound(places, look) or (select, expected)


def _problems(folder: "epath.Path") -> Iterator[str]:
    for item in items_of(folder).values():
        if not (item / MANIFEST).exists() and (item / "d").exists():
            yield f"{MANIFEST} is missing."
    if is_remote(folder):
        return
    for file in islice(sorted(pathlib.Path(folder).rglob("*")), SEARCHED):
        if what := wrong_content(file):
            yield f"{file.relative_to(folder)} {what}."
