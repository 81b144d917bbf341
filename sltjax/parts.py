"""Parts of the weights, chosen by where they lie: leaves by pattern, slices of them by index."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, TypeAlias

import jax

from sltjax.types import Params

Index: TypeAlias = int | slice | EllipsisType

NUMBER = r"\s*-?\d+\s*"
ENTRY = re.compile(rf"({NUMBER}|\s*\.\.\.\s*|({NUMBER}|\s*)(:({NUMBER}|\s*)){{1,2}})")


@dataclass(frozen=True)
class Part:
    """A function from parameters to a part of them, for `select`; of equal parts, the program is compiled once.

    Attributes:
        patterns: (regular expression for the whole path of a leaf, index of what is taken of it), the first to match
            a leaf decides; an empty index takes all of it.
    """

    patterns: tuple[tuple[str, str], ...]

    def __call__(self, params: Params) -> dict[str, Any]:
        """Path -> array, of every leaf that a pattern matches.

        Raises:
            ValueError: a pattern matches no leaf, or an index does not fit one.
        """
        leaves = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
        taken: dict[str, Any] = {}
        for pattern, index in self.patterns:
            found = [name for name in leaves if re.fullmatch(pattern, name)]
            if not found:
                raise ValueError(f"no parameter matches {pattern!r}; there are {', '.join(map(repr, leaves))}")
            for name in found:
                if name not in taken:
                    taken[name] = _take(name, leaves[name], index)
        return taken

    def __or__(self, other: "Part | Union") -> "Union":
        """Both together; they must not overlap."""
        return Union((self, *_members(other)))


@dataclass(frozen=True)
class Union:
    """Several parts as one, for `select`: `part("a") | part("b")`.

    Attributes:
        parts: which; `select` is refused where they overlap.
    """

    parts: tuple[Part, ...]

    def __call__(self, params: Params) -> list[dict[str, Any]]:
        """What each of them takes.

        Raises:
            ValueError: a pattern matches no leaf, or an index does not fit one.
        """
        return [part(params) for part in self.parts]

    def __or__(self, other: "Part | Union") -> "Union":
        """These and others together; they must not overlap."""
        return Union((*self.parts, *_members(other)))


def part(patterns: str | Iterable[str] | Mapping[str, str]) -> Part:
    """A part of the weights by the paths of its leaves, such as "blocks/0/mlp/.*".

        sltjax.part({"blocks/0/attention/(query|key|value)": ":, 3", "blocks/0/attention/out": "3"})  # head 3

    Args:
        patterns: regular expressions for whole paths, keys joined by slashes; or a mapping of them to the index of
            what is taken of the leaves, as it would stand in brackets.

    Raises:
        ValueError: none is given, or one is no regular expression or no index.
    """
    pairs = patterns.items() if isinstance(patterns, Mapping) else [(pattern, "") for pattern in _listed(patterns)]
    if not pairs:
        raise ValueError("a part needs at least one pattern, such as 'blocks/0/mlp/.*', got none")
    for pattern, index in pairs:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        _parse(index)
    return Part(tuple(pairs))


def _members(parts: Part | Union) -> tuple[Part, ...]:
    return parts.parts if isinstance(parts, Union) else (parts,)


def _listed(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _take(name: str, leaf: Any, index: str) -> Any:
    try:
        return leaf[_parse(index)] if index.strip() else leaf
    except (IndexError, TypeError) as error:
        raise ValueError(f"[{index}] does not fit {name!r} of shape {list(leaf.shape)}: {error}") from None


def _parse(index: str) -> tuple[Index, ...]:
    entries = index.split(",") if index.strip() else []
    if not all(ENTRY.fullmatch(entry) for entry in entries):
        raise ValueError(
            f"{index!r} is no index of an array; expected numbers, slices and '...', such as ':, 0, 16:32'"
        )
    return tuple(_entry(entry.strip()) for entry in entries)


def _entry(text: str) -> Index:
    if text == "...":
        return ...
    if ":" not in text:
        return int(text)
    return slice(*(int(number) if number.strip() else None for number in text.split(":")))
