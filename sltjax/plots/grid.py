"""The figure of what nβ and γ do to λ̂."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sltjax.definition import Curve
from sltjax.plots.drawing import BLACK, BLUE, SKY, VERMILLION, failures, legend, log_axis, points, short, tidy


def definition(curve: Curve, *, tolerance: float = 0.05) -> Figure:
    """Draw λ̂ against nβ or γ with its plateau, and what it would be without localisation to first order.

    Args:
        curve: as `sltjax.llc_curve` returns it.
        tolerance: the share of λ̂ by which it may change on the plateau for each factor of ten; see `Curve.plateau`.

    Raises:
        ValueError: the tolerance is negative.
    """
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    ax = figure.subplots()
    _plateau(ax, curve, tolerance)
    if np.all(curve.gamma > 0):
        _without_localisation(ax, curve)
    value = curve.value
    drawn = np.isfinite(value)
    ax.plot(curve.x[drawn], value[drawn], color=BLUE, lw=0.8, alpha=0.55, zorder=3)
    points(ax, curve.x, value, curve.std_error, drawn, curve.ok)
    if (~drawn).any():
        failures(ax, curve.x[~drawn])
    nbeta, gamma = r"$n\beta$", r"$\gamma$"
    label, symbol, other, fixed = f"inverse temperature {nbeta}", nbeta, gamma, curve.gamma[0]
    if curve.axis == "gamma":
        label, symbol, other, fixed = f"localisation {gamma}", gamma, nbeta, curve.nbeta[0]
    title = f"How λ̂ depends on {symbol}, at {other} = {short(float(f'{fixed:.4g}'))}"
    ax.set(xlabel=label, ylabel="learning\ncoefficient λ̂", title=title)
    ax.title.set_fontsize(10)
    tidy(ax)
    log_axis(ax, curve.x)
    legend(ax)
    return figure


def _plateau(ax: Axes, curve: Curve, tolerance: float) -> None:
    plateau = curve.plateau(tolerance)
    if plateau is None:
        return
    ax.axvspan(plateau.low, plateau.high, color=SKY, alpha=0.22, lw=0, zorder=0)
    middle = f"plateau: {plateau.value:.4g} ± {plateau.std_error:.2g}" + (" (see messages)" if plateau.messages else "")
    ends, level = [plateau.low, plateau.high], np.array([plateau.value] * 2)
    ax.plot(ends, level, color=BLACK, lw=1.0, ls="--", label=middle, zorder=2)
    ax.fill_between(ends, level - plateau.std_error, level + plateau.std_error, color=BLACK, alpha=0.12, lw=0, zorder=1)


def _without_localisation(ax: Axes, curve: Curve) -> None:
    estimates = curve.unlocalised()
    value = np.array([estimate.value for estimate in estimates])
    error = np.array([estimate.std_error for estimate in estimates])
    ax.plot(curve.x, value, color=VERMILLION, ls=":", lw=1.3, label="with the first-order bias of γ put back", zorder=2)
    ax.fill_between(curve.x, value - error, value + error, color=VERMILLION, alpha=0.12, lw=0, zorder=1)
