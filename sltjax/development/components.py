"""Which parts of a network develop together: the curves of their coefficients, compared and grouped."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.stats import chi2

from sltjax.estimators import average_linkage

STILL = -1  # the group of those that do not develop


def components(datasets: Mapping[str, xr.Dataset], *, together: float = 0.9, false_alarm: float = 0.001) -> xr.Dataset:
    """Compare the curves of λ̂ of several parts of a network over one training run (Wang et al., arXiv 2410.02984).

    The similarity of two parts is the correlation of their λ̂ over the checkpoints that both have, with the variance
    that the standard errors explain taken off (Spearman 1904): noise does not make parts differ. Groups come of
    average linkage, cut where parts of one group would be less alike than `together`. A part whose λ̂ does not vary
    beyond its errors (χ² at `false_alarm`) develops with no other.

    Args:
        datasets: name of the part -> what `sltjax.sweep` returned for it, `select` or other data setting it apart;
            `step`, `llc` and `llc_std_error` of shape [checkpoint] are used.
        together: the least mean correlation within a group, from 0 to below 1.
        false_alarm: how often a part that rests may pass for one that develops.

    Returns:
        Dims (component, checkpoint), coordinate `step` for all steps that any part has: `llc` and `llc_std_error`, NaN
        where a part has none; `group` [component], numbered by when the parts have made half their change, −1 for those
        that rest; `similarity` [component, other], NaN with those that rest.

    Raises:
        ValueError: no part is given, one lacks a variable, or two have fewer than three checkpoints in common.
    """
    if not datasets:
        raise ValueError("no components given, expected a mapping of names to the datasets of their sweeps")
    if not 0 <= together < 1:
        raise ValueError(f"together is a correlation from 0 to below 1, for instance 0.9, got {together}")
    step = np.unique(np.concatenate([_column(name, dataset, "step") for name, dataset in datasets.items()]))
    value, error = (
        np.stack([_aligned(name, dataset, what, step) for name, dataset in datasets.items()])
        for what in ("llc", "llc_std_error")
    )
    similarity = _similarity(list(datasets), value, error, false_alarm)
    group = _in_order(_group(similarity, together), value)
    return xr.Dataset(
        {
            "llc": (("component", "checkpoint"), value),
            "llc_std_error": (("component", "checkpoint"), error),
            "group": ("component", group),
            "similarity": (("component", "other"), similarity),
        },
        {"component": list(datasets), "other": list(datasets), "step": ("checkpoint", step.astype(np.int64))},
    )


def _column(name: str, dataset: xr.Dataset, what: str) -> np.ndarray:
    if what not in dataset.variables:
        raise ValueError(f"component {name!r} lacks {what!r}; expected what sltjax.sweep returns")
    return np.asarray(dataset[what], float)


def _aligned(name: str, dataset: xr.Dataset, what: str, step: np.ndarray) -> np.ndarray:
    column = np.full(len(step), np.nan)
    column[np.searchsorted(step, _column(name, dataset, "step"))] = _column(name, dataset, what)
    return column


def _similarity(
    names: list[str], value: np.ndarray, error: np.ndarray, false_alarm: float
) -> Float[np.ndarray, "component component"]:
    """Correlations without the attenuation by errors; NaN in the rows of those that rest."""
    known = np.isfinite(value) & np.isfinite(error)
    similarity = np.full((len(names), len(names)), np.nan)
    moving = [k for k in range(len(names)) if _moves(value[k, known[k]], error[k, known[k]], false_alarm)]
    similarity[moving, moving] = 1.0
    for i, j in combinations(moving, 2):
        both = known[i] & known[j]
        if both.sum() < 3:
            raise ValueError(
                f"{names[i]!r} and {names[j]!r} have {both.sum()} checkpoints in common, expected at least 3"
            )
        pair = [i, j]
        similarity[i, j] = similarity[j, i] = _correlation(value[pair][:, both], error[pair][:, both])
    return similarity


def _correlation(value: Float[np.ndarray, "2 checkpoint"], error: Float[np.ndarray, "2 checkpoint"]) -> float:
    """Of two curves less their errors, of each of which a tenth of the variance is taken for its own at least."""
    variance = value.var(axis=1)
    own = np.maximum(variance - np.mean(error**2, axis=1), 0.1 * variance)
    covariance = np.cov(value, bias=True)[0, 1]
    return float(np.clip(covariance / np.sqrt(own.prod()), -1, 1))


def _moves(value: np.ndarray, error: np.ndarray, false_alarm: float) -> bool:
    if len(value) < 3:
        return False
    error = np.maximum(error, 1e-12 + 1e-6 * np.abs(value).max())
    mean = np.average(value, weights=error**-2.0)
    return bool(chi2.sf(np.sum(((value - mean) / error) ** 2), len(value) - 1) < false_alarm)


def _group(similarity: np.ndarray, together: float) -> np.ndarray:
    moving = np.flatnonzero(np.isfinite(np.diag(similarity)))
    group = np.full(len(similarity), STILL)
    if len(moving):
        group[moving] = average_linkage(similarity[np.ix_(moving, moving)], together)
    return group


def _in_order(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The groups renumbered by when they have made half their change, the earliest first."""
    labels = [label for label in np.unique(group) if label != STILL]
    when = [np.median([_half_way(row) for row in value[group == label]]) for label in labels]
    order = {label: place for place, label in enumerate(np.array(labels)[np.argsort(when, kind="stable")])}
    return np.array([order.get(label, STILL) for label in group])


def _half_way(row: np.ndarray) -> float:
    """The checkpoint by which half of all ups and downs are done."""
    known = np.flatnonzero(np.isfinite(row))
    travelled = np.cumsum(np.abs(np.diff(row[known])))
    return float(known[1 + np.searchsorted(travelled, travelled[-1] / 2)])
