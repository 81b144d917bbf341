"""Folders of training checkpoints as orbax writes them, whichever of its interfaces wrote them."""

import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sltjax.checkpoints.leaves import Path, Shape, compare, flatten, match, name, nest, shapes
from sltjax.checkpoints.orbax_tree import MANIFEST, METADATA, StoredTree, open_tree, read
from sltjax.checkpoints.source import CheckpointError, MismatchError, Skipped, digest, require_finite
from sltjax.types import Params

if TYPE_CHECKING:
    from etils import epath

TEMPORARY = ".orbax-checkpoint-tmp"
COMMITTED = "commit_success.txt"
CHECKPOINT_METADATA = "_CHECKPOINT_METADATA"
STEP = re.compile(r"(?:.*[^\d.])?(\d+)")
TREE_FILES = (METADATA, MANIFEST, "_sharding", "array_metadatas")
LISTED = 4
SEARCHED = 1000

FOREIGN = {
    b"<!doctype html": "is an HTML page",
    b"<html": "is an HTML page",
    b"version https://git-lfs": "is a git-LFS pointer, not the file it stands for",
}


@dataclass(frozen=True)
class OrbaxCheckpoints:
    """Checkpoints in a folder that orbax wrote; a `Source`.

    Attributes:
        name: the folder.
        folders: the folder of each step, ascending.
        skipped: what else lies there.
        select: the path to the parameters within a checkpoint.
        like: the tree to return them in, or None.
        expected: the leaves every checkpoint must have, or None if no checkpoint could tell.
    """

    name: str
    folders: "Mapping[int, epath.Path]"
    skipped: tuple[Skipped, ...]
    select: str
    like: Params | None
    expected: Mapping[Path, Shape] | None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps, ascending."""
        return tuple(self.folders)

    def load(self, step: int) -> Params:
        """Return the parameters at `step`; see `Source.load`."""
        if step not in self.folders:
            raise ValueError(f"got step {step}, expected one of {self.steps} in {self.name}.")
        try:
            return self._load(self.folders[step])
        except CheckpointError as error:
            raise type(error)(f"step {step}: {error}") from error
        except MemoryError:
            raise
        except Exception as error:
            reason = _reason(self.folders[step], error)
            raise CheckpointError(f"step {step} cannot be read: {reason}") from error

    def _load(self, folder: "epath.Path") -> Params:
        leaves = _read(folder, self.select, self.expected)
        params = nest(leaves) if self.like is None else match(leaves, self.like)
        require_finite(params)
        return params


def from_orbax(path: str | os.PathLike[str], select: str = "params", like: Params | None = None) -> OrbaxCheckpoints:
    """Open a folder of training checkpoints that orbax wrote; nothing in it is changed.

    Any of orbax's interfaces will do: `CheckpointManager` with one item or several, `StandardCheckpointer` and
    `PyTreeCheckpointer` on folders named by step (`100`, `step_100`, `ckpt-000100`), `v1.training.Checkpointer`
    and `v1.save`. A folder that is itself one checkpoint is taken as one step: the number in its name, or 0.
    Only the parameters are read, never the optimizer state.

    Args:
        path: the folder, local or remote (`gs://`).
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
    root = _root(path)
    found, unfinished = _scan(root)
    select = select.strip("/")
    folders, repeated = _one_a_step(found, select)
    select, expected = _agreed(folders.values(), select, like)
    return OrbaxCheckpoints(str(root), folders, (*unfinished, *repeated), select, like, expected)


def _root(path: str | os.PathLike[str]) -> "epath.Path":
    from etils import epath

    root = epath.Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"got {root}, which does not exist; expected a folder of orbax checkpoints.")
    if not root.is_dir():
        raise ValueError(f"got {root}, which is a file; expected the folder that holds the checkpoints.")
    return root


def _scan(root: "epath.Path") -> "tuple[dict[int, list[epath.Path]], list[Skipped]]":
    if TEMPORARY not in root.name and _is_checkpoint(root):
        return {_step(root.name) or 0: [root]}, []
    found: dict[int, list[epath.Path]] = {}
    skipped: list[Skipped] = []
    for child in sorted(root.iterdir(), key=lambda child: (_step(child.name) or 0, child.name)):
        step, reason = _step(child.name), _unfinished(child, marked=any(map(_marked, _first(found))))
        if reason or step is None:
            skipped.append(Skipped(child.name, reason or "there is no step number in its name"))
        else:
            found.setdefault(step, []).append(child)
    if not found:
        raise ValueError(_nothing(root, skipped))
    return found, skipped


def _first(found: "Mapping[int, list[epath.Path]]") -> "Iterable[epath.Path]":
    return next(iter(found.values()), [])


def _nothing(root: "epath.Path", skipped: list[Skipped]) -> str:
    there = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:LISTED]) or "it is empty"
    return (
        f"got {root}, which holds no finished checkpoint ({there}); expected one folder a step as orbax writes them, "
        "such as 100 or step_100: pass the folder that holds these."
    )


def _step(folder: str) -> int | None:
    found = STEP.fullmatch(folder)
    return int(found[1]) if found else None


def _unfinished(child: "epath.Path", marked: bool) -> str | None:
    if TEMPORARY in child.name:
        return "it has the temporary name of a save that was never finished"
    if not child.is_dir():
        return "it is a file, and a checkpoint is a folder"
    if not any(child.iterdir()):
        return "it is an empty folder"
    if not any((item / METADATA).exists() for item in _items(child).values()):
        return f"no {METADATA} lies in it: not a pytree that orbax stored, or never finished"
    if not _marked(child) and (marked or "://" in os.fspath(child) or _never_committed(child)):
        return f"it lacks the mark of a finished save ({COMMITTED})"
    return None


def _marked(folder: "epath.Path") -> bool:
    return (folder / COMMITTED).exists()


def _never_committed(folder: "epath.Path") -> bool:
    # Versions of orbax that leave no mark on a local disk note the time of the commit instead, or nothing at all.
    try:
        times = json.loads((folder / CHECKPOINT_METADATA).read_text())
        return times.get("commit_timestamp_nsecs", 0) is None
    except (OSError, ValueError, AttributeError):
        return False


def _is_checkpoint(folder: "epath.Path") -> bool:
    return bool(items := _items(folder)) and (
        "" in items or "default" in items or (folder / CHECKPOINT_METADATA).exists()
    )


def _items(folder: "epath.Path") -> "dict[str, epath.Path]":
    """Return the folders of the pytrees in a checkpoint by item name; "" where the checkpoint is one pytree.

    One that lost its table of leaves is still listed, so that no other item is taken in its place.
    """
    if _is_tree(folder):
        return {"": folder}
    children = sorted(child for child in folder.iterdir() if TEMPORARY not in child.name)
    return {child.name: child for child in children if _is_tree(child)}


def _is_tree(folder: "epath.Path") -> bool:
    return any((folder / file).exists() for file in TREE_FILES)


def _one_a_step(found: "Mapping[int, list[epath.Path]]", select: str) -> "tuple[dict[int, epath.Path], list[Skipped]]":
    folders: dict[int, epath.Path] = {}
    repeated: list[Skipped] = []
    for step, copies in sorted(found.items()):
        contents = _contents(copies, select) if len(copies) > 1 else {}
        if len(set(contents.values())) > 1:
            raise ValueError(
                f"got step {step} more than once, with different parameters, in {', '.join(c.name for c in copies)}; "
                "expected one checkpoint a step: move the others to another folder."
            )
        folders[step] = kept = next(iter(contents), copies[0])
        repeated += [Skipped(c.name, f"it is step {step} again, as {kept.name}") for c in copies if c != kept]
    return folders, repeated


def _contents(copies: "list[epath.Path]", select: str) -> "dict[epath.Path, str]":
    contents = {}
    for folder in copies:
        try:
            contents[folder] = digest(nest(_read(folder, select, None)))
        except Exception:
            continue
    return contents


def _agreed(
    folders: "Iterable[epath.Path]", select: str, like: Params | None
) -> tuple[str, Mapping[Path, Shape] | None]:
    """Return what holds for every checkpoint: where the parameters lie, and the leaves of the template or the first.

    The item is named from here on, so that a checkpoint without it cannot offer another item in its place.

    Raises:
        MismatchError: checkpoints can be read, but none has what is asked for; says what the first one has.
    """
    expected = None if like is None else shapes(flatten(like))
    mismatch: MismatchError | None = None
    for folder in folders:
        try:
            subtree = _locate(folder, select)
            return subtree.select, shapes(_open(subtree, expected))
        except MismatchError as error:
            mismatch = mismatch or MismatchError(f"{folder.name}: {error}")
        except Exception:  # damage is reported when this checkpoint is loaded
            continue
    if mismatch:
        raise mismatch
    return select, expected


def _read(folder: "epath.Path", select: str, expected: Mapping[Path, Shape] | None) -> dict[Path, np.ndarray]:
    return read(_open(_locate(folder, select), expected))


class Subtree(NamedTuple):
    """What `select` points to in one checkpoint: its full path, the tree, and there each leaf's path below it."""

    select: str
    tree: StoredTree
    paths: dict[Path, Path]


def _open(subtree: Subtree, expected: Mapping[Path, Shape] | None) -> dict[Path, Any]:
    _, tree, paths = subtree
    if text := [name(path) for path in paths if tree.kinds[path] == "string"]:
        raise MismatchError(f"got text in {', '.join(text)}, expected arrays: narrow `select` to the parameters.")
    arrays = {paths[path]: array for path, array in tree.open(paths).items()}
    if expected is not None:
        compare(shapes(arrays), expected)
    return arrays


def _locate(folder: "epath.Path", select: str) -> Subtree:
    """Return what `select` points to.

    Raises:
        MismatchError: no item of the checkpoint has it, or several.
    """
    items = _items(folder)
    named = [(item, select.removeprefix(item).strip("/")) for item in items if f"{select}/".startswith(f"{item}/")]
    trees, damage = _trees(items)
    if found := _candidates(trees, named):
        return found[0]
    if damage:
        raise damage
    found = _candidates(trees, [(item, select) for item in items])
    if len(found) == 1:
        return found[0]
    if found:
        raise MismatchError(f"select={select!r} is in several items: {_listing(trees)}. Name the item first.")
    raise MismatchError(
        f"got select={select!r}, which is not there; expected a path to the parameters in {_listing(trees)}. "
        'Pass select="" where the whole tree is the parameters.'
    )


def _candidates(trees: Mapping[str, StoredTree], places: Iterable[tuple[str, str]]) -> list[Subtree]:
    found = (
        Subtree("/".join(filter(None, (item, inner))), trees[item], _below(trees[item], inner))
        for item, inner in places
        if item in trees
    )
    return [subtree for subtree in found if subtree.paths]


def _trees(items: "Mapping[str, epath.Path]") -> tuple[dict[str, StoredTree], Exception | None]:
    trees: dict[str, StoredTree] = {}
    damage: Exception | None = None
    for item, folder in items.items():
        try:
            trees[item] = open_tree(folder)
        except Exception as error:
            damage = error
    return trees, damage


def _below(tree: StoredTree, select: str) -> dict[Path, Path]:
    found = {}
    for path in tree.kinds:
        # Keys may hold a slash themselves, as haiku's do, so `select` is compared as text and never split.
        for depth in range(len(path) + 1):
            if "/".join(map(str, path[:depth])) == select:
                found[path] = path[depth:]
                break
    return found


def _listing(trees: Mapping[str, StoredTree]) -> str:
    return "; ".join(_group(item, key, tree) for item, tree in trees.items() for key in _keys(tree))


def _keys(tree: StoredTree) -> list[str | int]:
    return list(dict.fromkeys(path[0] for path in tree.kinds if path))


def _group(item: str, key: str | int, tree: StoredTree) -> str:
    paths = [path for path in tree.kinds if path[:1] == (key,)]
    more = f" and {len(paths) - LISTED} more" if len(paths) > LISTED else ""
    leaves = ", ".join(f"{name(path)} {_shape(tree, path)}" for path in paths[:LISTED])
    return f"{name((item, key) if item else (key,))} ({leaves}{more})"


def _shape(tree: StoredTree, path: Path) -> str:
    try:
        return str(tuple(tree.open([path])[path].shape))
    except Exception:
        return tree.kinds[path]


def _reason(folder: "epath.Path", error: Exception) -> str:
    """Return why a checkpoint cannot be read, in one sentence: what lies in the place of a file, else the error."""
    return next(_foreign(folder), None) or f"{type(error).__name__}: {_sentence(error)}."


def _sentence(error: Exception) -> str:
    # tensorstore appends the whole specification and its own source lines.
    return re.split(r" \[(?:tensorstore_spec|source)|\n", str(error), maxsplit=1)[0][:400].rstrip(". ")


def _foreign(folder: "epath.Path") -> Iterator[str]:
    for item in _items(folder).values():
        if not (item / MANIFEST).exists() and (item / "d").exists():
            yield f"{MANIFEST} is missing."
    if "://" in os.fspath(folder):  # every look into a remote file is a request
        return
    for file in islice(sorted(pathlib.Path(folder).rglob("*")), SEARCHED):
        if problem := _problem(file):
            yield f"{file.relative_to(folder)} {problem}."


def _problem(file: pathlib.Path) -> str | None:
    try:
        with file.open("rb") as content:
            head = content.read(64).lstrip().lower()
    except OSError:  # a folder, or a file that may not be read
        return None
    if not head:
        return "is empty"
    return next((problem for start, problem in FOREIGN.items() if head.startswith(start)), None)
