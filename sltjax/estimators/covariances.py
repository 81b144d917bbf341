"""Covariances between numbers recorded along chains, each with its Monte-Carlo error.

Errors are by batch means (Flegal & Jones 2010): the covariance over every block of draws of every chain, and how these
scatter. That costs one matrix product a block, where the autocorrelation of each pair would cost a transform a pair.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from flax import struct
from jaxtyping import Bool, Float

from sltjax.diagnostics import health
from sltjax.moments import mean
from sltjax.types import Health

BLOCKS = 16  # a chain; even
TILE_BYTES = 2**26  # of numbers of a block that are held at once
PIECE_BYTES = 2**26  # of draws that are read at once

Recorded: TypeAlias = Any
"""An array [chain, draw, row], or what reads one a slice at a time, such as a variable of `open_results`."""


@struct.dataclass
class Covariance:
    """A number for every pair of rows and columns.

    Attributes:
        value: shape [row, column], over the chains that stayed finite; NaN if none did.
        std_error: its Monte-Carlo standard error, NaN where nothing moved; same shape.
        health: of the mean over rows.
    """

    value: Float[np.ndarray, "row column"]
    std_error: Float[np.ndarray, "row column"]
    health: Health


Measure: TypeAlias = Callable[[Recorded, Recorded | None], Covariance]
"""`covariance` or `correlation`."""


def covariance(x: Recorded, y: Recorded | None = None) -> Covariance:
    """Cov_p(x_i, y_j) over the draws of all chains, about the mean of all.

    What is held at once is a part of the draws and a tile of the pairs, beside the result itself.

    Args:
        x: [chain, draw, row].
        y: [chain, draw, column], along the same chains; None for x itself.

    Raises:
        ValueError: they are not recorded along the same chains.
    """
    return _between(x, y, scaled=False)


def correlation(x: Recorded, y: Recorded | None = None) -> Covariance:
    """Cov_p(x_i, y_j)/√(Var_p x_i · Var_p y_j); arguments, result and errors as for `covariance`.

    Its error is that of z_i·z_j − (r/2)(z_i² + z_j²) for standardised z: the error of the variances is in it.
    """
    return _between(x, y, scaled=True)


@struct.dataclass
class _Margin:
    """What is known of one side alone."""

    finite: Bool[np.ndarray, " chain"]
    average: Float[np.ndarray, "chain draw"]
    centre: Float[np.ndarray, " row"]
    scale: Float[np.ndarray, " row"]


def _between(x: Recorded, y: Recorded | None, *, scaled: bool) -> Covariance:
    other = x if y is None else y
    if len(x.shape) != 3 or len(other.shape) != 3 or x.shape[:2] != other.shape[:2]:
        raise ValueError(
            f"got arrays of shape {list(x.shape)} and {list(other.shape)}, expected [chain, draw, ...] with one axis "
            "more, recorded along the same chains"
        )
    finite = _finite(x) if y is None else _finite(x) & _finite(y)
    rows = _margin(x, finite)
    columns = rows if y is None else _margin(y, finite)
    value = np.full((x.shape[2], other.shape[2]), np.nan)
    std_error = np.full_like(value, np.nan)
    if finite.any():
        size = max(1, TILE_BYTES // (8 * finite.sum() * other.shape[2]))
        for first in range(0, x.shape[2], size):
            tile = slice(first, first + size)
            value[tile], std_error[tile] = _tile(x, other, rows, columns, tile, scaled)
    average = rows.average
    return Covariance(value, std_error, health(average, mean(average[finite]) if finite.any() else None))


def _pieces(x: Recorded) -> list[slice]:
    """Slices of draws, no larger than is read at once."""
    num_chains, num_draws, num_rows = x.shape
    size = max(1, PIECE_BYTES // (8 * num_chains * num_rows))
    return [slice(first, min(first + size, num_draws)) for first in range(0, num_draws, size)]


def _read(x: Recorded, draws: slice, rows: slice = slice(None)) -> Float[np.ndarray, "chain draw row"]:
    return np.asarray(x[:, draws, rows], np.float64)


def _finite(x: Recorded) -> Bool[np.ndarray, " chain"]:
    return np.all([np.isfinite(_read(x, piece)).all(axis=(1, 2)) for piece in _pieces(x)], axis=0)


def _margin(x: Recorded, finite: Bool[np.ndarray, " chain"]) -> _Margin:
    num_draws, num_rows = x.shape[1:]
    average = np.empty((len(finite), num_draws))
    total, square = np.zeros(num_rows), np.zeros(num_rows)
    start = np.nan_to_num(_read(x, slice(0, 1))[0, 0])  # sums about it lose nothing to rounding
    for piece in _pieces(x):
        draws = _read(x, piece)
        average[:, piece] = np.where(np.isfinite(draws), draws, np.nan).mean(axis=2)
        total += (draws[finite] - start).sum(axis=(0, 1))
        square += ((draws[finite] - start) ** 2).sum(axis=(0, 1))
    average[~finite & np.isfinite(average).all(axis=1)] = np.nan  # lost elsewhere
    count = max(1, finite.sum() * num_draws)
    scale = np.sqrt(np.maximum(square / count - (total / count) ** 2, 0.0))
    return _Margin(finite, average, start + total / count, scale)


def _tile(
    x: Recorded, y: Recorded, rows: _Margin, columns: _Margin, tile: slice, scaled: bool
) -> tuple[Float[np.ndarray, "row column"], Float[np.ndarray, "row column"]]:
    """Value and error for some of the rows."""
    bounds = np.linspace(0, x.shape[1], min(BLOCKS, x.shape[1] // 2 * 2) + 1).round().astype(int)
    blocks = [slice(*pair) for pair in pairwise(bounds)]

    def read(block: slice) -> tuple[np.ndarray, np.ndarray]:
        return (
            _standardised(_read(x, block, tile), rows, scaled, tile),
            _standardised(_read(y, block), columns, scaled),
        )

    value = sum(np.tensordot(*read(block), axes=((0, 1), (0, 1))) for block in blocks) / (
        rows.finite.sum() * x.shape[1]
    )

    def excess() -> Iterator[Float[np.ndarray, "chain row column"]]:
        for block in blocks:
            a, b = read(block)
            products = np.swapaxes(a, 1, 2) @ b / a.shape[1]
            if scaled:
                products -= value / 2 * (np.mean(a**2, axis=1)[:, :, None] + np.mean(b**2, axis=1)[:, None])
            else:
                products -= value
            yield products

    return value, _error(excess(), len(blocks))


def _standardised(draws: np.ndarray, margin: _Margin, scaled: bool, rows: slice = slice(None)) -> np.ndarray:
    centred = draws[margin.finite] - margin.centre[rows]
    if not scaled:
        return centred
    scale = margin.scale[rows]
    return centred / np.where(scale > 0, scale, np.nan)


def _error(blocks: Iterator[Float[np.ndarray, "chain row column"]], num_blocks: int) -> Float[np.ndarray, "row column"]:
    """The error of the mean of numbers by block, each less its mean: the larger of two, as `moments.mean` has it.

    Taking the chains as independent, blocks of twice the length, with what they scatter more than single ones once
    more: that much longer ones would add (lugsail windows, Vats & Flegal 2022). Averaging over the chains first keeps
    the noise that they share through their batches.
    """
    single: Any = 0.0
    double: Any = 0.0
    shared: Any = 0.0
    for first, second in zip(blocks, blocks, strict=True):  # neighbours
        num_chains = len(first)
        single += _squares(first) + _squares(second)
        shared += first.mean(axis=0) ** 2 + second.mean(axis=0) ** 2
        first += second
        double += _squares(first) / 4
    apart = _variance(double, num_chains * num_blocks // 2)
    apart = apart + np.maximum(apart - _variance(single, num_chains * num_blocks), 0.0)
    variance = np.maximum(apart, _variance(shared, num_blocks))
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def _squares(x: Float[np.ndarray, "chain row column"]) -> Float[np.ndarray, "row column"]:
    return np.einsum("cij,cij->ij", x, x)


def _variance(squares: Any, count: int) -> Any:
    """The variance of the mean of uncorrelated samples, of which the sum of squares is known; nothing of one alone."""
    return squares / (count * max(1, count - 1))
