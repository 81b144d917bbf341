"""What a sweep found beside λ̂, over training, and how components act on one another."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sltjax.estimators import Interactions
from sltjax.plots.covariances import draw_heat
from sltjax.plots.drawing import legend, require, scale_steps, styles, tidy

PANELS: Mapping[str, Mapping[str, tuple[str, float]]] = {
    "free energy\nin nats": {"wbic": ("WBIC", 1.0), "free_energy": ("by expansion", 1.0)},
    "singular\nfluctuation": {"singular_fluctuation": ("ν̂", 1.0)},
    "nats\nan example": {"waic": ("WAIC", 1.0)},
    "directions\nheld / 2": {
        "llc": ("λ̂", 1.0),
        "hessian_count": ("by the Hessian, at this γ and nβ", 0.5),
        "hessian_rank": ("rank of the Hessian / 2", 0.5),
    },
    "trace of\nthe Hessian": {"hessian_trace": ("trace", 1.0)},
}
"""Label -> column -> (what it is called, by what it is multiplied)."""


def diagnostics(dataset: xr.Dataset, *, log_steps: bool | None = None) -> Figure:
    """Draw the diagnostics of a sweep that are one number a checkpoint, with bands of one standard error.

    Args:
        dataset: one run, of a sweep that was asked for some (`sltjax.columns`); `step` is needed.
        log_steps: as for `development`.

    Raises:
        ValueError: there are none in it.
    """
    require(dataset, "step")
    drawn = {
        label: {name: said for name, said in lines.items() if name in dataset}
        for label, lines in PANELS.items()
        if any(name in dataset for name in lines if name != "llc")
    }
    if not drawn:
        raise ValueError('this figure needs diagnostics: sweep with diagnostics=("wbic", "hessian"), or others')
    for lines in drawn.values():
        if "wbic" in lines:  # where there is a WBIC, at nβ = n/log n, the free energy is the same number
            lines.pop("free_energy", None)
    figure = Figure(figsize=(7.2, 1.6 * len(drawn) + 0.6), layout="constrained")
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (label, lines) in zip(axes, drawn.items(), strict=True):
        _panel(ax, dataset, lines)
        ax.set_ylabel(label)
        tidy(ax)
        if len(lines) > 1:
            legend(ax)
    scale_steps(axes[-1], np.asarray(dataset["step"], float), log_steps)
    figure.align_ylabels(list(axes))
    return figure


def _panel(ax: Axes, dataset: xr.Dataset, lines: Mapping[str, tuple[str, float]]) -> None:
    step = np.asarray(dataset["step"], float)
    for (name, (said, factor)), color, dash in zip(lines.items(), *styles(len(lines)), strict=True):
        value, error = (factor * np.asarray(dataset[f"{name}{suffix}"], float) for suffix in ("", "_std_error"))
        ax.plot(step, value, color=color, ls=dash, lw=1.2, marker=".", ms=3.5, label=said)
        ax.fill_between(step, value - error, value + error, color=color, alpha=0.2, lw=0)


def interactions(found: Interactions) -> Figure:
    """Draw how strongly every two components act on one another.

    Args:
        found: as `sltjax.loss_interactions` or `coefficient_interactions` return it.
    """
    size = len(found.components)
    side = 2.6 + 0.3 * min(size, 20)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    ax = figure.subplots()
    draw_heat(figure, ax, found.value, "interaction")
    ax.set_xticks(range(size), found.components, fontsize=8, rotation=90 if size > 4 else 0)
    ax.set_yticks(range(size), found.components, fontsize=8)
    return figure
