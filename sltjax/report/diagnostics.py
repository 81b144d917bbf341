"""The section of the report on what was found beside λ̂: over training, and in full at the last checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sltjax import columns, plots
from sltjax.estimators import Covariance, Interactions, modules
from sltjax.plots.drawing import with_error

MOST_PAIRS = 8

Section: TypeAlias = tuple[Figure, str, str]
"""A figure, what it is, its caption."""


def figures(dataset: xr.Dataset, parts: Mapping[str, xr.Dataset]) -> Iterator[Section]:
    """The diagnostics that a sweep was asked for."""
    if any(name in dataset for name in columns.COLUMNS):
        yield _numbers(dataset)
    last = last_known(dataset)
    if last is None:
        return
    row, at = dataset.isel(checkpoint=last), f"at step {int(dataset['step'][last]):,}"
    if "hessian.nodes" in dataset:
        yield _spectrum(row, at)
    places = {name: last_known(part) for name, part in parts.items() if "susceptibility" in part}
    rows = {name: parts[name].isel(checkpoint=place) for name, place in places.items() if place is not None}
    if len({each.sizes["example"] for each in rows.values()}) == 1:
        yield _susceptibilities(rows, at)
    if "interactions" in dataset:
        yield _interactions(row, at)
    if "influence" in dataset:
        yield _influence(row, at)


def _numbers(dataset: xr.Dataset) -> Section:
    caption = "What else was found, over training; bands are one standard error."
    if "hessian_count" in dataset:
        caption += (
            " At a minimum λ is at least half the rank of the Hessian; λ̂ at this nβ and γ is at least half the "
            "directions that its quadratic part holds."
        )
    return plots.diagnostics(dataset), "diagnostics over training", caption


def _spectrum(row: xr.Dataset, at: str) -> Section:
    nbeta, gamma = (float(row.attrs[name]) for name in ("nbeta", "gamma"))
    held: dict[str, Any] = {"nbeta": nbeta, "gamma": gamma} if gamma > 0 else {}
    figure = plots.spectral_density(columns.spectrum_of(row), **held)
    return figure, "the spectrum of the Hessian", f"The Hessian {at}: its eigenvalues, and how many are large."


def _influence(row: xr.Dataset, at: str) -> Section:
    caption = (
        f"How the losses of {row.sizes['example']} examples move together along the chains {at}; examples that do "
        "stand side by side."
    )
    figure = plots.matrix(_clustered(_correlation(row)))
    figure.axes[0].set(xticks=[], yticks=[])  # in no order of the data
    return figure, "influences between examples", caption


def _susceptibilities(rows: Mapping[str, xr.Dataset], at: str) -> Section:
    found = columns.susceptibilities_of(rows)
    caption = (
        f"The susceptibility of each part to each of {found.value.shape[1]} examples, in standard errors, {at}. "
        "Positive: data like that example, were there more of it, would make the loss of the part larger."
    )
    return plots.susceptibilities(found), "susceptibilities of parts", caption


def _interactions(row: xr.Dataset, at: str) -> Section:
    found = columns.interactions_of(row)
    caption = f"How the losses with one part alone moved go together along the chains {at}. {_modules(found)}"
    return plots.interactions(found), "interactions of parts", caption


def last_known(dataset: xr.Dataset) -> int | None:
    """The place of the last checkpoint with an estimate; None if there is none."""
    known = np.flatnonzero(np.isfinite(np.asarray(dataset["llc"], float)))
    return int(known[-1]) if len(known) else None


def strongest_pairs(dataset: xr.Dataset) -> list[dict[str, str]]:
    """Rows of the pairs of examples that are most connected at the last checkpoint."""
    last = last_known(dataset)
    if "influence" not in dataset or last is None:
        return []
    tied = _correlation(dataset.isel(checkpoint=last))
    names = dataset["example"].to_numpy()
    rows, cols = np.triu_indices(len(names), 1)
    order = np.argsort(-np.nan_to_num(np.abs(tied.value[rows, cols])), kind="stable")[:MOST_PAIRS]
    return [
        {
            "one": f"{names[i]:,}",
            "other": f"{names[j]:,}",
            "influence": with_error(-tied.value[i, j], tied.std_error[i, j]),
        }
        for i, j in zip(rows[order], cols[order], strict=True)
    ]


def _correlation(row: xr.Dataset) -> Covariance:
    """Of the losses of examples; influence is minus their covariance."""
    found = columns.influence_of(row)
    scale = np.sqrt(np.abs(np.diag(found.value)))
    both = np.where(np.outer(scale, scale) > 0, np.outer(scale, scale), np.nan)
    return Covariance(-found.value / both, found.std_error / both, found.health)


def _clustered(found: Covariance) -> Covariance:
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(found.value) < 3:
        return found
    far = 1 - np.nan_to_num((found.value + found.value.T) / 2)
    np.fill_diagonal(far, 0.0)
    order = leaves_list(linkage(squareform(np.maximum(far, 0.0), checks=False), "average", optimal_ordering=True))
    return Covariance(found.value[np.ix_(order, order)], found.std_error[np.ix_(order, order)], found.health)


def _modules(found: Interactions) -> str:
    if not np.isfinite(found.strength[~np.eye(len(found.components), dtype=bool)]).all():
        return ""
    groups: dict[int, list[str]] = {}
    for name, group in modules(found).items():
        groups.setdefault(group, []).append(name)
    return "Modules: " + "; ".join(", ".join(names) for names in groups.values()) + "."
