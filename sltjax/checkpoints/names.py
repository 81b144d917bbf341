"""Names of stored tensors as paths in the user's tree: split at dots and slashes, renamed by patterns or a function."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from sltjax.checkpoints.leaves import Path, flatten, name
from sltjax.checkpoints.source import MismatchError, printable
from sltjax.types import Params

Rename: TypeAlias = Mapping[str, str | None] | Callable[[str], str | Path | None]
"""Regular expressions, of which the first to match a whole name replaces it (`\\1` is its first group; None or an empty
string leaves the tensor out), other names stay; or a function of the name: a new name, a path as a tuple, or None."""

Transform: TypeAlias = Callable[[str, np.ndarray], Any]
"""(stored name, array) -> the array to use in its place."""

SEPARATOR = re.compile(r"[./]")
INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Naming:
    """How stored tensors become leaves of the user's tree.

    Attributes:
        rename: (name) -> a name, a path, or None for what is left out.
        transform: (name, array) -> array, or None.
        template: the paths of the user's tree by their parts, since its keys may hold separators, as haiku's do.
    """

    rename: Callable[[str], str | Path | None]
    transform: Transform | None
    template: Mapping[Path, Path]

    def keeps(self, stored: str) -> bool:
        """Return whether a tensor is to be read at all.

        Raises:
            MismatchError: the user's function fails on its name.
        """
        return self._path(stored) is not None

    def leaves(self, tensors: Mapping[str, np.ndarray]) -> dict[Path, np.ndarray]:
        """Return tensors by their paths in the user's tree.

        Raises:
            MismatchError: there are none, two have one place, one is no array of numbers, or a function of the user's
                fails; names the tensor.
        """
        paths = {stored: path for stored in tensors if (path := self._path(stored)) is not None}
        if not paths:
            raise MismatchError("no tensors are stored that `rename` does not leave out; expected the parameters.")
        _require_distinct(paths)
        return {path: self._leaf(stored, tensors[stored]) for stored, path in paths.items()}

    def _path(self, stored: str) -> Path | None:
        try:
            new = self.rename(stored)
        except Exception as error:
            raise MismatchError(f"`rename` fails on {printable(stored)}: {type(error).__name__}: {error}.") from error
        if new is None or new == "":
            return None
        if isinstance(new, str):
            new = _parts(new)
        elif not isinstance(new, tuple) or not all(isinstance(key, str | int) for key in new):
            raise MismatchError(
                f"`rename` makes {new!r} of {printable(stored)}, expected a name, a path as a tuple of keys, or None "
                "to leave the tensor out."
            )
        return self.template.get(new, new)

    def _leaf(self, stored: str, array: np.ndarray) -> np.ndarray:
        if self.transform is not None:
            try:
                array = np.asarray(self.transform(stored, array))
            except Exception as error:
                raise MismatchError(
                    f"`transform` fails on {printable(stored)}: {type(error).__name__}: {error}."
                ) from error
        if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise MismatchError(
                f"got {printable(stored)} as {array.dtype}, expected numbers: leave it out with `rename`, or make "
                "numbers of it with `transform`."
            )
        return array


def naming(rename: Rename | None, transform: Transform | None, like: Params | None) -> Naming:
    """Return how stored tensors become leaves.

    Raises:
        ValueError: a pattern is no regular expression.
    """
    return Naming(
        rename=_by_patterns(rename or {}) if rename is None or isinstance(rename, Mapping) else rename,
        transform=transform,
        template={_parts("/".join(map(str, path))): path for path in ({} if like is None else flatten(like))},
    )


def _by_patterns(patterns: Mapping[str, str | None]) -> Callable[[str], str | None]:
    compiled = [(_compiled(pattern), new) for pattern, new in patterns.items()]

    def rename(stored: str) -> str | None:
        for pattern, new in compiled:
            if found := pattern.fullmatch(stored):
                return found.expand(new) if new else None
        return stored

    return rename


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"got {pattern!r} in `rename`, which is no regular expression: {error}.") from error


def _parts(text: str) -> Path:
    return tuple(int(part) if INDEX.fullmatch(part) else part for part in SEPARATOR.split(text))


def _require_distinct(paths: Mapping[str, Path]) -> None:
    taken: dict[Path, str] = {}
    for stored, path in paths.items():
        other = taken.setdefault(tuple(map(str, path)), stored)
        if other != stored:
            raise MismatchError(
                f"got {printable(other)} and {printable(stored)} for one leaf, {name(path)}; expected one tensor a "
                "leaf: rename or leave out the other."
            )
    for path, stored in taken.items():
        for depth in range(len(path)):
            if path[:depth] in taken:
                raise MismatchError(
                    f"got {printable(taken[path[:depth]])} for the leaf {name(path[:depth])} and {printable(stored)} "
                    f"for {name(path)} below it; expected leaves apart: rename or leave out one."
                )
