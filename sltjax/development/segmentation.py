"""Developmental stages: where λ̂ changes over training, and where it rests (Hoogland et al., arXiv 2402.02364).

The curve is cut by an exact penalised segmentation instead of by the zeros of a smoothed slope: λ̂ often moves as a
staircase (saddle-to-saddle training, Jacot et al. 2106.15933), where one length scale for plateaus and
jumps together blurs the jumps or sees changes in the plateaus.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

_COLUMNS = {
    "stage": int,
    "from_step": int,
    "to_step": int,
    "onset": float,
    "onset_low": float,
    "onset_high": float,
    "end": float,
    "end_low": float,
    "end_high": float,
    "delta_loss": float,
    "delta_llc": float,
    "delta_llc_std_error": float,
    "kind": str,
}
_DRAWS = 2000
_KNOTS = 80
_LEVEL_COST = 2
_FOOT = 0.125
_SHORTEST_PLATEAU = 3

_Data: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Checkpoint index, λ̂ and σ of the checkpoints that have a λ̂."""


def stages(dataset: xr.Dataset, *, confidence: float = 0.95, tolerance: float = 0.04) -> pd.DataFrame:
    """Cut a training run into stages at the milestones of λ̂.

    1. The finite λ̂ are fitted by flat and sloped pieces. The cut minimises Σ (r²/σ² + log σ²) + penalty exactly, by
       dynamic programming over checkpoints, with σ² = std_error² + τ² and the excess τ² chosen by the same criterion.
       A flat piece costs 2.5 log n (compare Zhang & Siegmund 2007); a sloped one log n more, and more the longer
       it is: λ of critical points is discrete, so a staircase is preferred to a line that fits about as well.
    2. Neighbouring levels that differ by less than `tolerance`, or by less than three standard errors, are one
       plateau. A level on the way up or down is dropped where one longer ramp fits about as well (within
       2 log n), or where it is the foot or the shoulder (an eighth) of a larger step.
    3. A transition is level, ramp, level. The posterior over the ramp's two ends, on a grid finer than the
       checkpoints, gives the intervals. Ramps are linear in the checkpoint index, so in log steps where
       checkpoints are spaced so.

    A level is held by at least three checkpoints (two at the ends of the run), so one outlier makes no stage.
    Failed checkpoints are left out. What this finds, and misses, on known curves: benchmarks/STAGES.md.

    Args:
        dataset: one run, with `step`, `llc` and `llc_std_error` of shape [checkpoint]; `loss` and `exact_llc` are used
            where present.
        confidence: mass of the central intervals `_low` to `_high`.
        tolerance: smallest change of λ̂ to count, as a share of the larger of the two levels. The bias of a
            sampler drifts by some per cent over training, and no standard error shows it. 0 counts every change.

    Returns:
        One row a stage: `stage` (1, 2, …); milestones `from_step` and `to_step`, from the
        first checkpoint with an estimate to the last; `onset` and `end`, the steps where
        10 % and 90 % of the change have happened, each with `_low` and `_high`; `delta_loss` between the milestones;
        `delta_llc` between the levels, with `delta_llc_std_error`; `kind`: "A" λ̂ rises, "B" λ̂ falls while the loss
        falls, "C" λ̂ falls while the loss does not, or is unknown; `exact_delta_llc` where `exact_llc` is given.
        No row if no transition stands out.

    Raises:
        ValueError: if a variable is missing, steps do not ascend, or an argument is out of range.
    """
    _check(dataset, confidence, tolerance)
    step, llc, std_error = (np.asarray(dataset[name], float) for name in ("step", "llc", "llc_std_error"))
    kept = np.flatnonzero(np.isfinite(llc) & np.isfinite(std_error))
    exact = "exact_llc" in dataset
    if len(kept) < 2 * _SHORTEST_PLATEAU:
        return _table([], exact)
    u, y = kept.astype(float), llc[kept]
    pieces, sigma = _segment(u, y, np.maximum(std_error[kept], 1e-4 * np.ptp(y) + 1e-12))
    data = u, y, sigma
    levels = _prune(_merge(list(_levels(pieces)), tolerance), data)
    ends = pairwise(kept[_milestones(levels, len(kept))])
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for number, (pair, (first, last)) in enumerate(zip(pairwise(levels), ends, strict=False), start=1):
        ramp = _ramp(*pair, data, rng)
        what = _what(ramp.change, dataset, int(first), int(last), exact=exact)
        rows.append({"stage": number} | what | _when(ramp, step, confidence))
    return _table(rows, exact)


@dataclass(frozen=True)
class _Piece:
    """A flat or sloped stretch: checkpoints start … stop − 1, fitted values at both, their variances."""

    start: int
    stop: int
    left: float
    right: float
    variance: float
    sloped: bool


@dataclass(frozen=True)
class _Level:
    """A plateau, or a turning point: checkpoints first … last, the level, and the variance of that."""

    first: int
    last: int
    value: float
    variance: float

    @property
    def is_plateau(self) -> bool:
        return self.last - self.first + 1 >= _SHORTEST_PLATEAU


@dataclass(frozen=True)
class _Ramp:
    """Posterior draws of one transition: where it starts and stops (checkpoint index), and its height."""

    start: Float[np.ndarray, " draw"]
    stop: Float[np.ndarray, " draw"]
    change: Float[np.ndarray, " draw"]


def _check(dataset: xr.Dataset, confidence: float, tolerance: float) -> None:
    missing = [name for name in ("step", "llc", "llc_std_error") if name not in dataset.variables]
    if missing:
        raise ValueError(f"stages needs step, llc and llc_std_error: {', '.join(missing)} not in the dataset")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, for instance 0.95, got {confidence}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a share of λ̂ from 0 to below 1, for instance 0.04, got {tolerance}")
    if np.any(np.diff(np.asarray(dataset["step"])) <= 0):
        raise ValueError("steps must ascend: sort the dataset with dataset.sortby('step') and drop repeated steps")


def _segment(u: np.ndarray, y: np.ndarray, error: np.ndarray) -> tuple[list[_Piece], np.ndarray]:
    """Return the best pieces and the standard deviations σ, over a grid of excess noise."""
    u, centred = u - u.mean(), y - y.mean()
    unit = np.median(error)
    largest = max(2.0, centred.std() / unit)
    grid = [0.0, *(unit * np.geomspace(0.4, 2 * largest, 4 + int(4 * np.log2(largest))))]
    fits = []
    for excess in grid:
        sigma = np.sqrt(error**2 + excess**2)
        costs = _costs(u, centred, sigma**-2.0)
        total, cuts = _best(*costs)
        fits.append((total + 2 * np.log(sigma).sum(), cuts, sigma))
    _, cuts, sigma = min(fits, key=lambda fit: fit[0])
    return [_piece(u, y, sigma, *cut) for cut in cuts], sigma


def _costs(u: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the penalised weighted residual of a flat and of a sloped piece over [i, j), at [i, j]."""
    n = len(u)
    w, wu, wy, wuu, wuy, wyy = (_between(weight * factor) for factor in (np.ones(n), u, y, u * u, u * y, y * y))
    length = np.arange(n + 1)[None, :] - np.arange(n + 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        flat = wyy - wy**2 / w
        sloped = flat - (wuy - wu * wy / w) ** 2 / (wuu - wu**2 / w)
    flat = np.where(length >= 1, flat, np.inf)
    sloped = np.where(length >= 3, sloped, np.inf)
    return flat + 2.5 * np.log(n), sloped + 3.5 * np.log(n) + 60 * length / n


def _between(values: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(values)])
    return total[None, :] - total[:, None]


def _best(flat: np.ndarray, sloped: np.ndarray) -> tuple[float, list[tuple[int, int, bool]]]:
    """Return the least total cost and its pieces (start, stop, sloped): optimal partitioning, O(n²)."""
    n = len(flat) - 1
    cheaper, is_sloped = np.minimum(flat, sloped), sloped < flat
    least, source = np.zeros(n + 1), np.zeros(n + 1, int)
    for stop in range(1, n + 1):
        totals = least[:stop] + cheaper[:stop, stop]
        source[stop] = np.argmin(totals)
        least[stop] = totals[source[stop]]
    cuts: list[tuple[int, int, bool]] = []
    stop = n
    while stop > 0:
        start = int(source[stop])
        cuts.insert(0, (start, stop, bool(is_sloped[start, stop])))
        stop = start
    return float(least[n]), cuts


def _piece(u: np.ndarray, y: np.ndarray, sigma: np.ndarray, start: int, stop: int, sloped: bool) -> _Piece:
    inside = slice(start, stop)
    degree = int(sloped)
    coefficients = np.polyfit(u[inside], y[inside], degree, w=1 / sigma[inside])
    left, right = np.polyval(coefficients, u[[start, stop - 1]])
    # An end of a fitted line has four times the variance of a mean.
    variance = (4 if sloped else 1) / np.sum(sigma[inside] ** -2)
    return _Piece(start, stop, float(left), float(right), float(variance), sloped)


def _levels(pieces: list[_Piece]) -> Iterator[_Level]:
    """Yield a level for each flat piece that is long enough, and one for each end of a sloped piece."""
    for number, piece in enumerate(pieces):
        at_edge = number in (0, len(pieces) - 1)
        if piece.sloped:
            # One checkpoint inside the ends is the mean of three: a line across a jump overshoots at its very ends.
            slope = (piece.right - piece.left) / (piece.stop - 1 - piece.start)
            yield _Level(piece.start, piece.start, piece.left + slope, piece.variance)
            yield _Level(piece.stop - 1, piece.stop - 1, piece.right - slope, piece.variance)
        elif piece.stop - piece.start >= (2 if at_edge else _SHORTEST_PLATEAU):
            yield _Level(piece.start, piece.stop - 1, piece.left, piece.variance)


def _merge(levels: list[_Level], tolerance: float) -> list[_Level]:
    """Join levels that do not differ, the closest first, and drop the points that a transition passes."""
    levels = _without_passing(levels)
    while len(levels) > 1:
        ratios = [_contrast(*pair, tolerance) for pair in pairwise(levels)]
        closest = int(np.argmin(ratios))
        if ratios[closest] >= 1:
            break
        joined = _join(*levels[closest : closest + 2])
        levels = _without_passing([*levels[:closest], joined, *levels[closest + 2 :]])
    return levels


def _contrast(a: _Level, b: _Level, tolerance: float) -> float:
    least = max(tolerance * max(abs(a.value), abs(b.value)), 3 * np.sqrt(a.variance + b.variance))
    return abs(b.value - a.value) / least


def _join(a: _Level, b: _Level) -> _Level:
    weight = b.variance / (a.variance + b.variance)
    value = weight * a.value + (1 - weight) * b.value
    return _Level(a.first, b.last, value, a.variance * weight)


def _without_passing(levels: list[_Level]) -> list[_Level]:
    for k in range(1, len(levels) - 1):
        before, here, after = (level.value for level in levels[k - 1 : k + 2])
        if not levels[k].is_plateau and (here - before) * (after - here) >= 0:
            return _without_passing(levels[:k] + levels[k + 1 :])
    return levels


def _prune(levels: list[_Level], data: _Data) -> list[_Level]:
    """Drop, the weakest first, every level on the way up or down that one longer ramp makes unnecessary."""
    while True:
        triples = zip(levels, levels[1:], levels[2:], strict=False)
        gains = [_gain(*triple, data) for triple in triples]
        if not gains or min(gains) >= _LEVEL_COST * np.log(len(data[0])):
            return levels
        del levels[int(np.argmin(gains)) + 1]


def _gain(before: _Level, here: _Level, after: _Level, data: _Data) -> float:
    """Return how much worse the data are fitted without the level `here`; 0 if it is a foot of the larger step."""
    steps = here.value - before.value, after.value - here.value
    if steps[0] * steps[1] < 0:
        return np.inf
    if min(map(abs, steps)) < _FOOT * abs(sum(steps)):
        return 0.0
    middle = (here.first + here.last) // 2
    left, right = replace(here, last=middle), replace(here, first=min(middle + 1, here.last))
    return _least(before, after, data) - _least(before, left, data) - _least(right, after, data)


def _least(before: _Level, after: _Level, data: _Data) -> float:
    return float(_template(before, after, data, _KNOTS // 2).residual.min())


def _milestones(levels: list[_Level], n: int) -> list[int]:
    """Return the first checkpoint, the middle of every inner level, and the last checkpoint."""
    return [0, *((level.first + level.last) // 2 for level in levels[1:-1]), n - 1]


@dataclass(frozen=True)
class _Template:
    """Level, ramp, level for every pair of knots: the levels' weighted least squares and what it leaves over."""

    start: Float[np.ndarray, " pair"]
    stop: Float[np.ndarray, " pair"]
    levels: Float[np.ndarray, "pair 2"]
    precision: Float[np.ndarray, "pair 2 2"]
    residual: Float[np.ndarray, " pair"]


def _template(before: _Level, after: _Level, data: _Data, most_knots: int) -> _Template:
    window = slice(before.first, after.last + 1)
    u, y, sigma = (column[window] for column in data)
    # Heights are counted from the first level: what is left over then keeps its digits.
    y, weight = y - before.value, sigma**-2.0
    knots = _knots(u, before.last - before.first, after.first - before.first, most_knots)
    i, j = np.triu_indices(len(knots), k=1)
    start, stop = knots[i], knots[j]
    rise = np.clip((u - start[:, None]) / (stop - start)[:, None], 0, 1)
    design = np.stack([1 - rise, rise], axis=1)
    precision = (design * weight) @ design.swapaxes(1, 2)
    levels = np.linalg.solve(precision, (design @ (weight * y))[..., None])[..., 0]
    fitted = (levels[:, None, :] @ design)[:, 0]
    return _Template(start, stop, levels, precision, ((y - fitted) ** 2) @ weight)


def _ramp(before: _Level, after: _Level, data: _Data, rng: np.random.Generator) -> _Ramp:
    """Draw from the posterior of level, ramp, level, with flat priors on both levels and both ends.

    Where the shape fits worse than σ allows (a curved ramp), σ is scaled up until it fits.
    """
    fit = _template(before, after, data, _KNOTS)
    misfit = max(1.0, fit.residual.min() / max(after.last - before.first - 3, 1))
    log_mass = -fit.residual / (2 * misfit) - np.linalg.slogdet(fit.precision)[1] / 2
    mass = np.exp(log_mass - log_mass.max())
    drawn = rng.choice(len(mass), _DRAWS, p=mass / mass.sum())
    root = np.linalg.cholesky(misfit * np.linalg.inv(fit.precision))[drawn]
    ends = fit.levels[drawn] + (root @ rng.standard_normal((_DRAWS, 2, 1)))[..., 0]
    return _Ramp(fit.start[drawn], fit.stop[drawn], ends[:, 1] - ends[:, 0])


def _knots(u: np.ndarray, last_before: int, first_after: int, most: int) -> np.ndarray:
    """Return the places where a ramp may start or stop: about it, four to a checkpoint if that is not too many."""
    margin = max(6.0, u[first_after] - u[last_before])
    low, high = max(u[0], u[last_before] - margin), min(u[-1], u[first_after] + margin)
    return np.linspace(low, high, int(np.clip(4 * (high - low) + 1, 3, most)))


def _when(draws: _Ramp, step: np.ndarray, confidence: float) -> dict[str, float]:
    tail = (1 - confidence) / 2
    columns: dict[str, float] = {}
    for name, share in (("onset", 0.1), ("end", 0.9)):
        at = np.interp(draws.start + share * (draws.stop - draws.start), np.arange(len(step)), step)
        low, middle, high = np.quantile(at, [tail, 0.5, 1 - tail])
        columns |= {name: middle, f"{name}_low": low, f"{name}_high": high}
    return columns


def _what(change: np.ndarray, dataset: xr.Dataset, first: int, last: int, *, exact: bool) -> dict[str, object]:
    delta_loss = _difference(dataset, "loss", first, last)
    delta_llc = float(change.mean())
    columns: dict[str, object] = {
        "from_step": int(dataset["step"][first]),
        "to_step": int(dataset["step"][last]),
        "delta_loss": delta_loss,
        "delta_llc": delta_llc,
        "delta_llc_std_error": float(change.std()),
        "kind": "A" if delta_llc > 0 else "B" if delta_loss < 0 else "C",
    }
    return columns | ({"exact_delta_llc": _difference(dataset, "exact_llc", first, last)} if exact else {})


def _difference(dataset: xr.Dataset, name: str, first: int, last: int) -> float:
    return float(dataset[name][last] - dataset[name][first]) if name in dataset else float("nan")


def _table(rows: Iterable[dict[str, object]], exact: bool) -> pd.DataFrame:
    types = _COLUMNS | ({"exact_delta_llc": float} if exact else {})
    return pd.DataFrame(list(rows), columns=list(types)).astype(types)
