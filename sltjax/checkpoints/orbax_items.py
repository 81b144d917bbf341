"""One checkpoint as orbax stores it: its items, each of them a pytree, and what `select` points to in them."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sltjax.checkpoints.leaves import Path, Shape, compare, name, shapes
from sltjax.checkpoints.orbax_tree import MANIFEST, METADATA, StoredTree, open_tree, read
from sltjax.checkpoints.source import MismatchError

if TYPE_CHECKING:
    from etils import epath

TEMPORARY = ".orbax-checkpoint-tmp"
TREE_FILES = (METADATA, MANIFEST, "_sharding", "array_metadatas")
LISTED = 4


def items_of(folder: "epath.Path") -> "dict[str, epath.Path]":
    """Return the folders of the pytrees in a checkpoint by item name; "" where the checkpoint is one pytree.

    One that lost its table of leaves is still listed, so that no other item is taken in its place.
    """
    if _is_tree(folder):
        return {"": folder}
    children = sorted(child for child in folder.iterdir() if TEMPORARY not in child.name)
    return {child.name: child for child in children if _is_tree(child)}


def _is_tree(folder: "epath.Path") -> bool:
    return any((folder / file).exists() for file in TREE_FILES)


class Subtree(NamedTuple):
    """What `select` points to in one checkpoint: its full path, the tree, and there each leaf's path below it."""

    select: str
    tree: StoredTree
    paths: dict[Path, Path]


def locate(folder: "epath.Path", select: str) -> Subtree:
    """Return what `select` points to.

    Raises:
        MismatchError: no item of the checkpoint has it, or several.
    """
    items = items_of(folder)
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


def open_selected(subtree: Subtree, expected: Mapping[Path, Shape] | None) -> dict[Path, Any]:
    """Open the leaves of a subtree for reading, which tells their shapes and reads no weights.

    Raises:
        MismatchError: they are not the expected leaves, or no arrays.
    """
    _, tree, paths = subtree
    if text := [name(path) for path in paths if tree.kinds[path] == "string"]:
        raise MismatchError(f"got text in {', '.join(text)}, expected arrays: narrow `select` to the parameters.")
    arrays = {paths[path]: array for path, array in tree.open(paths).items()}
    if expected is not None:
        compare(shapes(arrays), expected)
    return arrays


def read_selected(folder: "epath.Path", select: str, expected: Mapping[Path, Shape] | None) -> dict[Path, np.ndarray]:
    """Read what `select` points to in a checkpoint; raises as `open_selected` and `locate` do."""
    return read(open_selected(locate(folder, select), expected))


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
