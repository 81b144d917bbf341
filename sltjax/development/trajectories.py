"""Essential dynamics: how a network's outputs move over training, in the plane where they move most.

Principal components of the outputs on fixed inputs over checkpoints (Hoogland et al., arXiv 2402.02364).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import xarray as xr

from sltjax.development.plane_curves import plane_curve

_PLANE = ("run", "checkpoint", "pair")
_DIMS = {
    "position": ("run", "checkpoint", "component"),
    "smoothed": (*_PLANE, "axis"),
    "curvature": _PLANE,
    "curvature_std_error": _PLANE,
    "centre": (*_PLANE, "axis"),
    "vertex": _PLANE,
    "status": ("run", "checkpoint"),
}


def essential_dynamics(
    datasets: xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset],
    outputs: str = "outputs",
    *,
    num_components: int = 3,
    smoothing: float = 0.03,
) -> xr.Dataset:
    """Follow one or several training runs in the principal components of their outputs.

    One basis serves all runs: the principal components of all checkpoints about the mean of the runs' means, where
    each run weighs the same and so does each checkpoint of a run. Signs are such that training starts, on average over
    runs, on the negative side of every component.

    In the plane of each pair of components the curve is smoothed along its own length, by local cubic regression with
    Gaussian weights, which neither shrinks it nor bends its ends. Training rests at saddles and leaps between
    them: a width in checkpoints or in log(step + 1) would blur the leaps, or leave the noise of the rests, where the
    corners are. Checkpoints that noise does not tell apart are one point of the curve. Noise is taken as independent
    from checkpoint to checkpoint, and its size is read from second differences.

    Args:
        datasets: sweeps of the same inputs with the same `outputs`: one, some, or some by name.
        outputs: a variable of shape [checkpoint, ...], as `sweep(metrics={"outputs": ...})` records. Checkpoints
            whose outputs are all NaN (failed ones) are left out, and smoothing minds the gap.
        num_components: how many; fewer where outputs or checkpoints have no more.
        smoothing: a standard deviation, as a share of the curve's length; corners are rounded to about it, and κ of
            curves tighter than it is too small. 0 smooths nothing and takes central differences over checkpoints, as
            Hoogland et al. do after a Gaussian average.

    Returns:
        A Dataset with coordinates `run`, `step` [checkpoint] (of all runs together), `component` (1, 2, …), `pair`
        ("1,2", …) and `axis` (the two of a pair).

        * `position` [run, checkpoint, component], in units of the outputs;
        * `smoothed` and `centre` [run, checkpoint, pair, axis]: the curve, and the centres of its osculating circles,
          which make the evolute; in the same units;
        * `curvature` κ [run, checkpoint, pair], in 1/units, positive where the curve turns from the first component
          towards the second, and `curvature_std_error`, of the noise alone;
        * `vertex` [run, checkpoint, pair]: 1 at extrema of κ where the curve is sharpest, −1 where it is flattest,
          if they stand out by four standard errors and a tenth of κ; the evolute has its cusps there;
        * `status` [run, checkpoint]: "done", "failed", or "absent" where the run has no such step; where it is not
          "done" the others are NaN, and no vertex;
        * `explained_variance_ratio` [component]; `mean` and `basis`, of the shape of the outputs.

    Raises:
        ValueError: there is no run, or `outputs` is missing, has no checkpoints, holds fewer than two numbers, differs
            in shape between runs, never changes or is partly not finite; steps do not ascend; a run has fewer than
            three checkpoints that are done; or an argument is out of range.
    """
    _check(num_components, smoothing)
    runs = {name: _read(name, dataset, outputs) for name, dataset in _named(datasets).items()}
    shapes = {name: run.outputs.shape[1:] for name, run in runs.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"runs need outputs of one shape, on the same inputs; got {shapes}")
    basis = _principal([run.flat for run in runs.values()], num_components)
    positions = [(run.flat - basis.mean) @ basis.directions.T for run in runs.values()]
    steps = np.unique(np.concatenate([run.step for run in runs.values()]))
    rows = [
        _row(run, steps, _curves(position, np.flatnonzero(run.done).astype(float), smoothing))
        for run, position in zip(runs.values(), positions, strict=True)
    ]
    found = {name: (dims, np.stack([row[name] for row in rows])) for name, dims in _DIMS.items()}
    return xr.Dataset(
        found | _described(basis, next(iter(runs.values()))),
        _coordinates(list(runs), steps, len(basis.ratio)),
        {"outputs": outputs, "smoothing": float(smoothing)},
    )


class _Run(NamedTuple):
    """One run: all steps, which are done, and the outputs of those, [done, ...], with the names of their dims."""

    step: np.ndarray
    done: np.ndarray
    outputs: np.ndarray
    dims: tuple[str, ...]

    @property
    def flat(self) -> np.ndarray:
        return self.outputs.reshape(len(self.outputs), -1)


class _Basis(NamedTuple):
    """Mean [output], directions [component, output] and the share of the variance along each."""

    mean: np.ndarray
    directions: np.ndarray
    ratio: np.ndarray


def _check(num_components: int, smoothing: float) -> None:
    if num_components < 2:
        raise ValueError(f"num_components must be at least 2, for a plane, got {num_components}")
    if not 0 <= smoothing <= 0.2:
        raise ValueError(f"smoothing is a share of the length from 0 to 0.2, for instance 0.03, got {smoothing}")


def _named(datasets: xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    if isinstance(datasets, Mapping) and not isinstance(datasets, xr.Dataset):
        named = dict(datasets)
    else:
        several = [datasets] if isinstance(datasets, xr.Dataset) else datasets
        named = {str(number): dataset for number, dataset in enumerate(several, start=1)}
    if not named:
        raise ValueError("got no run, expected at least one Dataset")
    return named


def _read(name: str, dataset: xr.Dataset, outputs: str) -> _Run:
    """Take the outputs of one run, and refuse what has no trajectory."""
    if outputs not in dataset.variables or "step" not in dataset.variables:
        missing = "step" if outputs in dataset.variables else outputs
        raise ValueError(
            f"run {name}: {missing} not in the dataset; record outputs on fixed inputs by "
            f'sweep(metrics={{"{outputs}": lambda params, data: ...}})'
        )
    variable = dataset[outputs]
    if "checkpoint" not in variable.dims or variable.size < 2 * variable.sizes["checkpoint"]:
        raise ValueError(
            f"run {name}: {outputs} has shape {dict(variable.sizes)}, expected [checkpoint, ...] with at least two "
            "numbers a checkpoint"
        )
    variable = variable.transpose("checkpoint", ...)
    step, values = np.asarray(dataset["step"], np.int64), np.asarray(variable, float)
    if np.any(np.diff(step) <= 0):
        raise ValueError(f"run {name}: steps must ascend: sort it with dataset.sortby('step') and drop repeated steps")
    rest = tuple(range(1, values.ndim))
    done = ~np.all(np.isnan(values), axis=rest)
    broken = step[done & ~np.all(np.isfinite(values), axis=rest)]
    if len(broken):
        raise ValueError(
            f"run {name}: {outputs} is partly not finite at steps {broken.tolist()}: mend the metric, or leave the "
            "checkpoints out"
        )
    if done.sum() < 3:
        raise ValueError(f"run {name}: a trajectory needs at least 3 checkpoints that are done, got {done.sum()}")
    return _Run(step, done, values[done], tuple(str(dim) for dim in variable.dims[1:]))


def _principal(runs: Sequence[np.ndarray], num_components: int) -> _Basis:
    """The principal components of rows [done, output], each run weighing the same.

    Not scikit-learn's PCA, which has no weights. Directions along which nothing moves, but for rounding, are zero.
    """
    mean = np.mean([run.mean(axis=0) for run in runs], axis=0)
    weighted = np.concatenate([(run - mean) / np.sqrt(len(run) * len(runs)) for run in runs])
    _, sizes, directions = np.linalg.svd(weighted, full_matrices=False)
    if sizes[0] <= np.finfo(float).eps * max(weighted.shape) * np.abs(mean).max():
        raise ValueError("the outputs are the same at every checkpoint: nothing moves")
    moving = sizes > np.finfo(float).eps * max(weighted.shape) * sizes[0]
    start = np.mean([run[0] - mean for run in runs], axis=0)
    signs = np.where(directions @ start > 0, -1.0, 1.0)
    directions = (signs * moving)[:, None] * directions
    return _Basis(mean, directions[:num_components], (sizes**2 / np.sum(sizes**2))[:num_components])


def _pairs(num_components: int) -> list[tuple[int, int]]:
    return list(combinations(range(num_components), 2))


def _curves(position: np.ndarray, index: np.ndarray, smoothing: float) -> dict[str, np.ndarray]:
    """What is found of one run, with a row a checkpoint that is done."""
    planes = [plane_curve(position[:, pair], index, smoothing) for pair in _pairs(position.shape[1])]
    names = {"curvature_std_error": "std_error"} | {n: n for n in ("smoothed", "curvature", "centre", "vertex")}
    stacked = {name: np.stack([getattr(plane, field) for plane in planes], axis=1) for name, field in names.items()}
    return {"position": position} | stacked


def _row(run: _Run, steps: np.ndarray, curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with a row for each of `steps`; what is not there is NaN, and no vertex."""
    here = np.searchsorted(steps, run.step)
    row = {}
    for name, values in curves.items():
        row[name] = np.full((len(steps), *values.shape[1:]), 0 if name == "vertex" else np.nan, values.dtype)
        row[name][here[run.done]] = values
    row["status"] = np.full(len(steps), "absent")
    row["status"][here] = np.where(run.done, "done", "failed")
    return row


def _described(basis: _Basis, run: _Run) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The basis, in the shape of the outputs."""
    shape = run.outputs.shape[1:]
    return {
        "explained_variance_ratio": (("component",), basis.ratio),
        "mean": (run.dims, basis.mean.reshape(shape)),
        "basis": (("component", *run.dims), basis.directions.reshape(-1, *shape)),
    }


def _coordinates(names: list[str], steps: np.ndarray, num_components: int) -> dict[str, object]:
    return {
        "run": names,
        "step": ("checkpoint", steps),
        "component": np.arange(1, num_components + 1),
        "pair": [f"{first + 1},{second + 1}" for first, second in _pairs(num_components)],
        "axis": ["first", "second"],
    }
