"""Developmental stages: where λ̂ changes over training, and where it rests (Hoogland et al., arXiv 2402.02364).

The curve is cut by an exact penalised segmentation instead of by the zeros of a smoothed slope: λ̂ often moves as a
staircase (saddle-to-saddle training, Jacot et al. 2106.15933), where one length scale for plateaus and
jumps together blurs the jumps or sees changes in the plateaus.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sltjax.development.crosscheck import change_points
from sltjax.development.curve import check_confidence, series
from sltjax.development.ramps import SHORTEST_PLATEAU, Data, Level, Ramp, draw_ramp, least_residual
from sltjax.development.turns import turning_ramps

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
    "duration": float,
    "duration_low": float,
    "duration_high": float,
    "resolution": int,
    "delta_loss": float,
    "delta_llc": float,
    "delta_llc_std_error": float,
    "kind": str,
    "confirmed": bool,
}
_LEVEL_COST = 2
_FOOT = 0.125
_STEEPER = 3
_TURNING = 8  # noise of 1.5 times the errors spreads a hundred estimates over as many


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
    4. Where λ̂ turns without resting, so that there is one transition at most, but the curve of `smooth` rises and
       falls by eight standard errors of an estimate, it is cut at its `milestones`, and its posterior draws give the
       intervals.

    A level is held by at least three checkpoints (two at the ends of the run), so one outlier makes no stage.
    Failed checkpoints are left out: intervals are as wide as the gaps in which a transition may have begun or ended.

    False alarms: where λ̂ has no transition, at most 5 % of runs of 60 checkpoints or more show a stage, with normal
    noise of up to 1.5 times the stated errors; of 8 to 25 checkpoints 1 to 2 % do, and 7 to 12 % where the noise is 1.5
    times the stated errors. That, and the power to find transitions, is measured in benchmarks/STAGES.md.

    Args:
        dataset: one run, with `step`, `llc` and `llc_std_error` of shape [checkpoint]; `loss` and `exact_llc` are used
            where present.
        confidence: mass of the central intervals `_low` to `_high`.
        tolerance: smallest change of λ̂ to count, as a share of the larger of the two levels. The bias of a
            sampler drifts by some per cent over training, and no standard error shows it. 0 counts every change.

    Returns:
        One row a stage: `stage` (1, 2, …); milestones `from_step` and `to_step`, from the
        first checkpoint with an estimate to the last; `onset` and `end`, the steps where
        10 % and 90 % of the change have happened, and `duration`, the steps from the one to the other, each with `_low`
        and `_high`; `resolution`, the number of estimates from onset to end, where 0 says that it was faster than
        can be seen; `delta_loss` between the milestones; `delta_llc` between the levels, with `delta_llc_std_error`;
        `kind`: "A" λ̂ rises, "B" λ̂ falls while the loss falls, "C" λ̂ falls while the loss does not, or is unknown;
        `confirmed`: whether `change_points`, another method, has a change of that sign between `onset_low` and
        `end_high`; `exact_delta_llc` where `exact_llc` is given. No row if no transition stands out.
        `.attrs["elsewhere"]` lists the steps of its change points outside of all transitions.

    Raises:
        ValueError: if a variable is missing, steps do not ascend, or an argument is out of range.
    """
    _check(dataset, confidence, tolerance)
    found, y, std_error = series(dataset, "llc")
    step = np.asarray(dataset["step"], float)
    kept = np.flatnonzero(np.isin(step, found))
    changes = change_points(dataset)
    if len(kept) < 2 * SHORTEST_PLATEAU:
        return _table([], dataset, changes)
    pieces, sigma = _segment(kept.astype(float), y, np.maximum(std_error, 1e-4 * np.ptp(y) + 1e-12))
    data = kept.astype(float), y, sigma
    levels = _prune(_merge(list(_levels(pieces)), tolerance), data)
    levels, ramps = _ramps(levels, data, tolerance)
    places = kept[_milestones(levels, len(kept))]
    if len(ramps) <= 1 and np.ptp(y) > _TURNING * np.median(std_error):
        turns, turning = turning_ramps(dataset, tolerance)
        if len(turning) > len(ramps):
            ramps, places = turning, kept[[np.argmin(np.abs(found - turn)) for turn in turns]]
    ends = pairwise(places)
    rows: list[dict[str, object]] = []
    for ramp, (first, last) in zip(ramps, ends, strict=False):
        when = _when(ramp, step, confidence)
        resolution = np.count_nonzero((when["onset"] <= found) & (found <= when["end"]))
        what = _what(ramp.change, dataset, int(first), int(last))
        rows.append({"stage": len(rows) + 1, "resolution": resolution} | what | when)
    return _table(rows, dataset, changes)


@dataclass(frozen=True)
class _Piece:
    """A flat or sloped stretch: checkpoints start … stop − 1, fitted values at both, their variances."""

    start: int
    stop: int
    left: float
    right: float
    variance: float
    sloped: bool

    @property
    def slope(self) -> float:
        """Change a checkpoint."""
        return (self.right - self.left) / max(self.stop - 1 - self.start, 1)


def _check(dataset: xr.Dataset, confidence: float, tolerance: float) -> None:
    missing = [name for name in ("step", "llc", "llc_std_error") if name not in dataset.variables]
    if missing:
        raise ValueError(f"stages needs step, llc and llc_std_error: {', '.join(missing)} not in the dataset")
    check_confidence(confidence)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a share of λ̂ from 0 to below 1, for instance 0.04, got {tolerance}")


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


def _levels(pieces: list[_Piece]) -> Iterator[Level]:
    """Yield a level for each flat piece that is long enough, and one for each end of a sloped piece."""
    for number, piece in enumerate(pieces):
        at_edge = number in (0, len(pieces) - 1)
        if piece.sloped and (at_edge or not _only_drifts(*pieces[number - 1 : number + 2])):
            # One checkpoint inside the ends is the mean of three: a line across a jump overshoots at its very ends.
            yield Level(piece.start, piece.start, piece.left + piece.slope, piece.variance)
            yield Level(piece.stop - 1, piece.stop - 1, piece.right - piece.slope, piece.variance)
        elif piece.stop - piece.start >= (2 if at_edge else SHORTEST_PLATEAU):
            yield Level(piece.start, piece.stop - 1, (piece.left + piece.right) / 2, piece.variance)


def _only_drifts(before: _Piece, piece: _Piece, after: _Piece) -> bool:
    """Whether a slope lies between two jumps the same way, each much steeper than itself: a plateau with soft edges."""
    for left, right in ((before, piece), (piece, after)):
        jump = np.sign(piece.slope) * (right.left - left.right)
        if jump < max(_STEEPER * abs(piece.slope), 3 * np.sqrt(left.variance + right.variance)):
            return False
    return True


def _merge(levels: list[Level], tolerance: float) -> list[Level]:
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


def _contrast(a: Level, b: Level, tolerance: float) -> float:
    least = max(tolerance * max(abs(a.value), abs(b.value)), 3 * np.sqrt(a.variance + b.variance))
    return abs(b.value - a.value) / least


def _join(a: Level, b: Level) -> Level:
    weight = b.variance / (a.variance + b.variance)
    value = weight * a.value + (1 - weight) * b.value
    return Level(a.first, b.last, value, a.variance * weight)


def _without_passing(levels: list[Level]) -> list[Level]:
    for k in range(1, len(levels) - 1):
        before, here, after = (level.value for level in levels[k - 1 : k + 2])
        if not levels[k].is_plateau and (here - before) * (after - here) >= 0:
            return _without_passing(levels[:k] + levels[k + 1 :])
    return levels


def _prune(levels: list[Level], data: Data) -> list[Level]:
    """Drop, the weakest first, every level on the way up or down that one longer ramp makes unnecessary."""
    while True:
        triples = zip(levels, levels[1:], levels[2:], strict=False)
        gains = [_gain(*triple, data) for triple in triples]
        if not gains or min(gains) >= _LEVEL_COST * np.log(len(data[0])):
            return levels
        del levels[int(np.argmin(gains)) + 1]


def _gain(before: Level, here: Level, after: Level, data: Data) -> float:
    """Return how much worse the data are fitted without the level `here`; 0 if it is a foot of the larger step."""
    steps = here.value - before.value, after.value - here.value
    if steps[0] * steps[1] < 0:
        return np.inf
    if min(map(abs, steps)) < _FOOT * abs(sum(steps)):
        return 0.0
    middle = (here.first + here.last) // 2
    left, right = replace(here, last=middle), replace(here, first=min(middle + 1, here.last))
    return least_residual(before, after, data) - least_residual(before, left, data) - least_residual(right, after, data)


def _ramps(levels: list[Level], data: Data, tolerance: float) -> tuple[list[Level], list[Ramp]]:
    """Return the ramps between levels, after joining levels between which no ramp is as high as the tolerance."""
    rng = np.random.default_rng(0)
    ramps = [draw_ramp(*pair, data, rng) for pair in pairwise(levels)]
    for k, ((a, b), ramp) in enumerate(zip(pairwise(levels), ramps, strict=True)):
        if abs(ramp.change.mean()) < tolerance * max(abs(a.value), abs(b.value)):
            return _ramps(_without_passing([*levels[:k], _join(a, b), *levels[k + 2 :]]), data, tolerance)
    return levels, ramps


def _milestones(levels: list[Level], n: int) -> list[int]:
    """Return the first checkpoint, the middle of every inner level, and the last checkpoint."""
    return [0, *((level.first + level.last) // 2 for level in levels[1:-1]), n - 1]


def _when(draws: Ramp, step: np.ndarray, confidence: float) -> dict[str, float]:
    ramp = draws.stop - draws.start
    onset, end = (np.interp(draws.start + share * ramp, np.arange(len(step)), step) for share in (0.1, 0.9))
    columns: dict[str, float] = {}
    for name, drawn in (("onset", onset), ("end", end), ("duration", end - onset)):
        low, middle, high = np.quantile(drawn, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
        columns |= {name: middle, f"{name}_low": low, f"{name}_high": high}
    return columns


def _what(change: np.ndarray, dataset: xr.Dataset, first: int, last: int) -> dict[str, object]:
    delta_loss = _difference(dataset, "loss", first, last)
    delta_llc = float(change.mean())
    return {
        "from_step": int(dataset["step"][first]),
        "to_step": int(dataset["step"][last]),
        "delta_loss": delta_loss,
        "delta_llc": delta_llc,
        "delta_llc_std_error": float(change.std()),
        "kind": "A" if delta_llc > 0 else "B" if delta_loss < 0 else "C",
        "exact_delta_llc": _difference(dataset, "exact_llc", first, last),
    }


def _difference(dataset: xr.Dataset, name: str, first: int, last: int) -> float:
    return float(dataset[name][last] - dataset[name][first]) if name in dataset else float("nan")


def _table(rows: list[dict[str, object]], dataset: xr.Dataset, changes: pd.DataFrame) -> pd.DataFrame:
    """Type the rows, and compare them with the change points of the second method."""
    types = _COLUMNS | ({"exact_delta_llc": float} if "exact_llc" in dataset else {})
    table = pd.DataFrame(rows, columns=list(types))
    inside = np.array([[_meet(row, change) for change in changes.itertuples()] for row in table.itertuples()], bool)
    inside = inside.reshape(len(table), len(changes))
    agree = np.sign(table["delta_llc"].to_numpy(float))[:, None] == np.sign(changes["change"].to_numpy())
    table["confirmed"] = (inside & agree).any(axis=1)
    table = table.astype(types)
    table.attrs["elsewhere"] = changes["to_step"][~inside.any(axis=0)].tolist()
    return table


def _meet(stage: Any, change: Any) -> bool:
    """Whether a change between two estimates may lie between the onset and the end of a stage."""
    return bool(change.from_step <= stage.end_high and stage.onset_low <= change.to_step)
