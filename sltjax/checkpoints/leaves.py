"""Parameters as a flat dict of leaves by path, and their way back into a tree: the user's template or plain dicts."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from sltjax.checkpoints.source import MismatchError, printable
from sltjax.types import Params

Path: TypeAlias = tuple[str | int, ...]
"""Where a leaf lies: a str is the key of a dict, an int the index of a list."""

Shape: TypeAlias = tuple[int, ...]

Leaf = TypeVar("Leaf")

LISTED = 8


def flatten(tree: Params) -> dict[Path, Any]:
    """Return the leaves of any pytree by path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(_key(entry) for entry in path): leaf for path, leaf in leaves}


def shapes(leaves: Mapping[Path, Any]) -> dict[Path, Shape]:
    """Return the shape of every leaf; leaves may be arrays, scalars or `jax.ShapeDtypeStruct`."""
    return {path: tuple(np.shape(leaf)) for path, leaf in leaves.items()}


def name(path: Path) -> str:
    """Return a path as it is written in messages and in `select`."""
    return printable("/".join(map(str, path))) or "(the root)"


def nest(leaves: Mapping[Path, Leaf]) -> Params:
    """Return leaves as nested dicts, with lists where the indices of a list are complete."""
    if () in leaves:
        return leaves[()]
    groups: dict[str | int, dict[Path, Leaf]] = {}
    for (first, *rest), leaf in leaves.items():
        groups.setdefault(first, {})[tuple(rest)] = leaf
    if groups and set(groups) == set(range(len(groups))):
        return [nest(groups[index]) for index in range(len(groups))]
    return {str(key): nest(group) for key, group in groups.items()}


def match(leaves: Mapping[Path, np.ndarray], like: Params) -> Params:
    """Return the leaves in the tree of the template `like`.

    Keys are compared as text, so a list index, an integer key and its string are the same; the trailing `value`
    of a Flax NNX state may be there or not on either side. The dtypes stay those of the leaves.

    Raises:
        MismatchError: a leaf is missing, unexpected or of another shape; nothing is returned in part.
    """
    template = flatten(like)
    compare(shapes(leaves), shapes(template))
    found = _plain(leaves)
    return jax.tree.unflatten(jax.tree.structure(like), [found[path] for path in _plain(template)])


def compare(stored: Mapping[Path, Shape], expected: Mapping[Path, Shape]) -> None:
    """Check that two sets of leaves have the same paths and shapes.

    Raises:
        MismatchError: they do not; lists the paths with what was got and what was expected.
    """
    got, wanted = _plain(stored), _plain(expected)
    problems = [
        _listed("missing", (f"{name(p)} (expected shape {s})" for p, s in wanted.items() if p not in got)),
        _listed("unexpected", (f"{name(p)} (got shape {s})" for p, s in got.items() if p not in wanted)),
        _listed(
            "mis-shaped",
            (f"{name(p)} (got {got[p]}, expected {s})" for p, s in wanted.items() if got.get(p, s) != s),
        ),
    ]
    if any(problems):
        raise MismatchError(
            f"the stored parameters are not those expected: {'; '.join(filter(None, problems))}. Pass as `like` "
            "the parameters of the model that was saved; `select` (Orbax), or `rename` and `transform` (files), say "
            "what becomes of the stored leaves."
        )


def _listed(kind: str, items: Iterable[str]) -> str:
    found = list(items)
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"{kind} {', '.join(found[:LISTED])}{more}" if found else ""


def _plain(leaves: Mapping[Path, Leaf]) -> dict[Path, Leaf]:
    named: dict[Path, Leaf] = {tuple(map(str, path)): leaf for path, leaf in leaves.items()}
    # Every leaf of a Flax NNX state is a Variable; only then is a last key 'value' no name the user chose.
    if all(len(path) > 1 and path[-1] == "value" for path in named):
        return {path[:-1]: leaf for path, leaf in named.items()}
    return named


def _key(entry: Any) -> str | int:
    match entry:
        case SequenceKey(idx=index):
            return index
        case DictKey(key=key) | FlattenedIndexKey(key=key):
            return str(key)
        case GetAttrKey(name=attribute):
            return attribute
    return str(entry)
