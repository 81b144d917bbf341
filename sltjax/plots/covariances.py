"""Figures of covariances along chains: matrices of pairs, examples as points, components against data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sltjax.estimators import Covariance, Embedding, Structure, Susceptibilities
from sltjax.plots.drawing import styles, tidy

MOST_TICKS = 30
_MARKERS = "osD^vP<>X*"


def matrix(found: Covariance, labels: Sequence[Any] | None = None, *, name: str = "correlation of losses") -> Figure:
    """Draw a square matrix of influences, covariances or correlations, in the order of the labels.

    Args:
        found: as `loss_kernel`, `bayesian_influence` or `correlation` return it, of the examples with themselves.
        labels: what each example is, such as its class; those of one label stand together.
        name: what is drawn.

    Raises:
        ValueError: the matrix is not square, or there is not one label an example.
    """
    size = len(found.value)
    kind_of = _labels(labels, size)
    if found.value.shape != (size, size):
        raise ValueError(f"got a matrix of shape {list(found.value.shape)}, expected examples against themselves")
    order = np.argsort(kind_of, kind="stable")
    figure = Figure(figsize=(5.6, 4.6), layout="constrained")
    ax = figure.subplots()
    draw_heat(figure, ax, found.value[np.ix_(order, order)], name)
    kinds, first, counts = np.unique(kind_of[order], return_index=True, return_counts=True)
    if len(kinds) > 1:
        for edge in first[1:]:
            ax.axhline(edge - 0.5, color="black", lw=0.4)
            ax.axvline(edge - 0.5, color="black", lw=0.4)
        ax.set_xticks(first + counts / 2 - 0.5, kinds)
        ax.set_yticks(first + counts / 2 - 0.5, kinds)
    else:
        ax.set(xlabel="example", ylabel="example")
    return figure


def embedding(found: Embedding, labels: Sequence[Any] | None = None) -> Figure:
    """Draw examples as points, by two components of an embedding of their loss kernel.

    Args:
        found: as `kernel_pca`, `spectral_embedding` or `umap_embedding` return it, of at least two components.
        labels: what each example is; each kind has a colour and a marker.

    Raises:
        ValueError: there are fewer than two components, or not one label an example.
    """
    size, dims = found.coordinates.shape
    if dims < 2:
        raise ValueError(f"got an embedding of {dims} component, expected at least 2")
    kind_of = _labels(labels, size)
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    ax = figure.subplots()
    kinds = np.unique(kind_of)
    for k, (kind, color) in enumerate(zip(kinds, styles(len(kinds))[0], strict=True)):
        x, y = found.coordinates[kind_of == kind, :2].T
        face = color if k % 2 == 0 else "none"
        ax.scatter(
            x, y, s=18, marker=_MARKERS[k % len(_MARKERS)], edgecolors=color, facecolors=face, lw=0.8, label=kind
        )
    for axis, share, number in ((ax.xaxis, found.explained[0], 1), (ax.yaxis, found.explained[1], 2)):
        axis.set_label_text(f"component {number}" + (f" ({share:.0%})" if np.isfinite(share) else ""))
    if len(kinds) > 1:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    tidy(ax)
    return figure


def susceptibilities(found: Susceptibilities, low_rank: Structure | None = None) -> Figure:
    """Draw components against data: χ in units of its error, or standardised and in the order of the first factor.

    Args:
        found: as `sltjax.susceptibilities` returns it.
        low_rank: as `structure` returns it; examples then stand in the order of its first factor.
    """
    figure = Figure(figsize=(7.2, 1.4 + 0.32 * min(MOST_TICKS, len(found.components))), layout="constrained")
    ax = figure.subplots()
    if low_rank is None:
        draw_heat(figure, ax, found.value / found.std_error, "χ / std. error")
        ax.set_xlabel("example")
    else:
        order = np.argsort(low_rank.examples[:, 0])
        draw_heat(figure, ax, low_rank.standardised[:, order], "standardised χ")
        ax.set_xlabel(f"example, by its score on the first factor ({low_rank.explained[0]:.0%})")
    if len(found.components) <= MOST_TICKS:
        ax.set_yticks(range(len(found.components)), found.components, fontsize=8)
    else:
        ax.set_ylabel("component")
    return figure


def draw_heat(figure: Figure, ax: Axes, value: np.ndarray, name: str) -> None:
    """Colours about 0, purple below and orange above, up to the 99th percentile of sizes."""
    largest = float(np.nanpercentile(np.abs(value), 99)) or 1.0
    image = ax.imshow(value, cmap="PuOr_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    beyond = bool(np.nanmax(np.abs(value)) > largest)
    figure.colorbar(image, ax=ax, label=name, extend="both" if beyond else "neither")


def _labels(labels: Sequence[Any] | None, size: int) -> np.ndarray:
    if labels is None:
        return np.zeros(size, int)
    if len(labels) != size:
        raise ValueError(f"got {len(labels)} labels for {size} examples, expected one each")
    return np.asarray(labels)
