"""The figure of a Hessian's spectrum."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sltjax.estimators import HessianSpectrum
from sltjax.plots.drawing import BLACK, BLUE, ORANGE, VERMILLION, legend, log_axis, short, tidy, with_error

POINTS = 400
WIDTH = 0.01  # of the range of eigenvalues, over which each is spread out
DECADES = 6  # of curvature, below the largest
LEAST = 0.1  # eigenvalues, below which counts are not drawn


def spectral_density(
    spectrum: HessianSpectrum, *, width: float | None = None, nbeta: float | None = None, gamma: float | None = None
) -> Figure:
    """Draw the density of eigenvalues h, and the number of them beyond each threshold in absolute value.

    Args:
        spectrum: as `sltjax.hessian_spectrum` returns it.
        width: the standard deviation by which each eigenvalue is spread out in the density; None for 1 % of the range.
        nbeta: with γ, to mark the curvature γ/nβ above which the loss holds a direction and not the localisation, and
            to say how many there are.
        gamma: γ.

    Raises:
        ValueError: one of nβ and γ without the other, or out of range, or a width that is not positive.
    """
    if (nbeta is None) != (gamma is None):
        raise ValueError(f"got nbeta = {nbeta} and gamma = {gamma}, expected both or neither")
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _density(left, spectrum, width)
    _counts(right, spectrum)
    if nbeta is not None and gamma is not None:
        count = spectrum.effective_count(nbeta, gamma)
        held = f"γ/nβ: {with_error(float(count.value), float(count.std_error))} directions held by the loss"
        right.axvline(gamma / nbeta, color=BLACK, lw=1.0, ls=":", label=held)
    for ax in (left, right):
        tidy(ax)
        legend(ax)
    return figure


def _density(ax: Axes, spectrum: HessianSpectrum, width: float | None) -> None:
    low, high = min(spectrum.nodes.min(), 0.0), max(spectrum.nodes.max(), spectrum.top[0])
    span = (high - low) or 1.0
    width = WIDTH * span if width is None else width
    x = np.linspace(low - 4 * width, high + 4 * width, POINTS)
    density = spectrum.density(x, width)
    floor = LEAST / (width * np.sqrt(2 * np.pi))  # a tenth of one eigenvalue
    ax.plot(x, np.maximum(density.value, floor), color=BLUE, lw=1.3)
    if not spectrum.is_exact:
        edges = (np.maximum(density.value + side * density.std_error, floor) for side in (-1, 1))
        ax.fill_between(x, *edges, color=BLUE, alpha=0.25, lw=0, label="± std. error")
    top = spectrum.top
    at_bottom = ax.get_xaxis_transform()
    style: dict[str, Any] = {"ls": "none", "marker": "|", "ms": 9, "mew": 1.4, "color": VERMILLION}
    ax.plot(top, np.full(len(top), 0.02), transform=at_bottom, label=f"largest {len(top)}", **style)
    ax.set_yscale("log")
    ax.set(
        xlabel="eigenvalue $h$",
        ylabel="eigenvalues per unit of $h$",
        title=f"density, width {short(float(f'{width:.2g}'))}",
    )
    ax.set_ylim(bottom=floor)
    ax.title.set_fontsize(10)


def _counts(ax: Axes, spectrum: HessianSpectrum) -> None:
    largest = max(np.abs(spectrum.nodes).max(), np.abs(spectrum.top).max()) or 1.0
    threshold = largest * 10.0 ** np.linspace(-DECADES, 0, POINTS)
    ranks = [spectrum.rank(float(t)) for t in threshold]
    value, error = (np.array([getattr(rank, name) for rank in ranks]) for name in ("value", "std_error"))
    ax.plot(threshold, np.maximum(value, LEAST), color=BLUE, lw=1.3)
    if not spectrum.is_exact:
        edges = (np.maximum(value + side * error, LEAST) for side in (-1, 1))
        ax.fill_between(threshold, *edges, color=BLUE, alpha=0.25, lw=0)
    total = float(spectrum.weights.sum(axis=-1).mean())
    ax.axhline(total, color=ORANGE, lw=1.0, ls="--", label=f"all {total:,.0f}")
    ax.set_yscale("log")
    ax.set(xlabel="threshold $t$", ylabel="eigenvalues with $|h| > t$", title="rank")
    ax.set_ylim(bottom=LEAST if value[-1] < 1 else None)
    ax.title.set_fontsize(10)
    log_axis(ax, threshold)
