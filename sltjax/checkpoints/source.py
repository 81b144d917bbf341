"""What a source of checkpoints is, and what can be said of any: reading ahead, digest, finite weights."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from sltjax.types import Params

LONGEST = 200


class CheckpointError(Exception):
    """One checkpoint cannot be used; the message says why in one sentence. The others are not affected."""


class MismatchError(CheckpointError, ValueError):
    """A sound checkpoint that does not hold what was asked for: other leaves, other shapes, no such subtree."""


@dataclass(frozen=True)
class Skipped:
    """What lies among the checkpoints but is no finished checkpoint.

    Attributes:
        name: the file or folder, as listed.
        reason: why it is no checkpoint.
    """

    name: str
    reason: str


@runtime_checkable
class Source(Protocol):
    """Training checkpoints, by step."""

    @property
    def name(self) -> str:
        """Where the checkpoints come from, for reports."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Every step with a finished checkpoint, ascending as numbers, each once."""

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """What was found beside them."""

    def load(self, step: int) -> Params:
        """Return the parameters at `step`, validated: numpy leaves, all finite.

        Raises:
            CheckpointError: this checkpoint cannot be used; the reason in one sentence.
            ValueError: `step` is none of `steps`.
        """


def read_ahead(source: Source, steps: Iterable[int], depth: int = 2) -> Iterator[tuple[int, Params | CheckpointError]]:
    """Load checkpoints in a background thread while the caller works on earlier ones.

    Args:
        source: where to load from.
        steps: which steps, yielded in this order.
        depth: how many checkpoints may be loaded ahead; at most `depth + 1` are in host memory, the caller's
            own included.

    Returns:
        An iterator of (step, params), with the `CheckpointError` in place of the parameters where a checkpoint
        is broken. Any other exception propagates. Closing it stops the thread once the load in progress is done.

    Raises:
        ValueError: `depth` is below 1.
    """
    if depth < 1:
        raise ValueError(f"got depth={depth}, expected at least 1: the number of checkpoints to load ahead.")
    return _ahead(source, iter(steps), depth)


def _ahead(source: Source, steps: Iterator[int], depth: int) -> Iterator[tuple[int, Params | CheckpointError]]:
    pending: deque[tuple[int, Future[Params | CheckpointError]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="sltjax-read-ahead") as thread:
        try:
            while True:
                for step in islice(steps, depth - len(pending)):
                    pending.append((step, thread.submit(_attempt, source, step)))
                if not pending:
                    return
                # Popped within the expression: a name kept here would hold one more checkpoint in memory.
                yield pending[0][0], pending.popleft()[1].result()
        finally:
            for _, future in pending:
                future.cancel()


def _attempt(source: Source, step: int) -> Params | CheckpointError:
    try:
        return source.load(step)
    except CheckpointError as error:
        return error


def printable(text: str, longest: int = LONGEST) -> str:
    """Return text that others wrote, of any length and with any characters in it, as it may stand in a message."""
    shown = text if text.isprintable() else repr(text)[1:-1]
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def digest(params: Params) -> str:
    """Return a sha256 of the leaves: sorted paths, dtypes, shapes and bytes; the types of containers do not count."""
    sha = hashlib.sha256()
    for name, leaf in sorted(_named(params).items()):
        sha.update(repr((name, leaf.dtype.name, leaf.shape)).encode())
        sha.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def require_finite(params: Params) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        CheckpointError: some are; names the leaves and how many.
    """
    bad = [f"{printable(name)} ({count} of {size})" for name, count, size in _nonfinite(params)]
    if bad:
        raise CheckpointError(f"the weights are NaN or infinite in {', '.join(bad)}.")


def _nonfinite(params: Params) -> Iterator[tuple[str, int, int]]:
    for name, leaf in _named(params).items():
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and (count := int(np.sum(~np.isfinite(leaf)))):
            yield name, count, leaf.size


def _named(params: Params) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}
