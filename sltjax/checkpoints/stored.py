"""Checkpoints that lie in places of their own, on a disk or in a bucket, and are read one at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sltjax.checkpoints.damage import worded
from sltjax.checkpoints.leaves import Path, match, nest
from sltjax.checkpoints.source import CheckpointError, MismatchError, Skipped, require_finite
from sltjax.types import Params

if TYPE_CHECKING:
    from etils import epath

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class StoredCheckpoints:
    """Checkpoints that lie in places of their own; a `Source`.

    Attributes:
        name: the folder.
        places: the file or folder of each step, ascending.
        skipped: what else lies there.
        read: (place) -> the leaves that every checkpoint must have; raises `MismatchError` for others, and anything
            else for damage.
        problems: (place) -> what is wrong with its files, a sentence each; asked once reading has failed.
        like: the tree to return the leaves in, or None.
    """

    name: str
    places: "Mapping[int, epath.Path]"
    skipped: tuple[Skipped, ...]
    read: "Callable[[epath.Path], Mapping[Path, np.ndarray]]"
    problems: "Callable[[epath.Path], Iterator[str]]"
    like: Params | None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps, ascending."""
        return tuple(self.places)

    def load(self, step: int) -> Params:
        """Return the parameters at `step`; see `Source.load`."""
        if step not in self.places:
            raise ValueError(f"got step {step}, expected one of {self.steps} in {self.name}.")
        try:
            return self._load(self.places[step])
        except CheckpointError as error:
            raise type(error)(f"step {step}: {error}") from error
        except MemoryError:
            raise
        except Exception as error:
            raise CheckpointError(f"step {step} cannot be read: {self._reason(step, error)}") from error

    def _load(self, place: "epath.Path") -> Params:
        leaves = self.read(place)
        params = nest(leaves) if self.like is None else match(leaves, self.like)
        require_finite(params)
        return params

    def _reason(self, step: int, error: Exception) -> str:
        place = self.places[step]
        try:
            gone = None if place.exists() else f"{place.name} is gone."
            return gone or next(self.problems(place), None) or worded(error)
        except Exception:  # what cannot be read may not be looked at closer either
            return worded(error)


def first_sound(places: "Mapping[int, epath.Path]", look: "Callable[[epath.Path], Seen]") -> Seen | None:
    """Return what `look` sees at the first step where it can see, or None where all are damaged.

    Raises:
        MismatchError: steps can be looked into, but none has what is asked for; says what the first one has.
    """
    mismatch: MismatchError | None = None
    for step, place in places.items():
        try:
            return look(place)
        except MismatchError as error:
            mismatch = mismatch or MismatchError(f"step {step}: {error}")
        except Exception:  # damage is reported when this checkpoint is loaded
            continue
    if mismatch:
        raise mismatch
    return None
