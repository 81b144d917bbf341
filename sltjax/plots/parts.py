"""The figure of the parts of a network: their curves of λ̂, those that develop together in one panel."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sltjax.plots.drawing import require, scale_steps, styles, tidy

FLAT = "no change beyond errors"


def components(found: xr.Dataset, *, log_steps: bool | None = None) -> Figure:
    """Draw λ̂ of every part over training, a panel for each group that develops together.

    Args:
        found: as `sltjax.development.components` returns it.
        log_steps: whether steps stand on a log(step + 1) axis; None: as reads better.

    Raises:
        ValueError: a variable is missing.
    """
    require(found, "step", "llc", "llc_std_error", "group")
    group = np.asarray(found["group"])
    labels = sorted(set(group.tolist()), key=lambda label: (label < 0, label))
    figure = Figure(figsize=(7.2, 0.6 + 1.9 * len(labels)), layout="constrained")
    axes = figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, label in zip(axes, labels, strict=True):
        _curves(ax, found.isel(component=np.flatnonzero(group == label)))
        ax.set_title(f"group {label + 1}" if label >= 0 else FLAT, fontsize=9, loc="left")
    scale_steps(axes[-1], np.asarray(found["step"], float), log_steps)
    return figure


def _curves(ax: Axes, found: xr.Dataset) -> None:
    step, names = np.asarray(found["step"], float), [str(name) for name in found["component"].values]
    for k, (name, color, dash) in enumerate(zip(names, *styles(len(names)), strict=True)):
        value, error = (np.asarray(found[what][k], float) for what in ("llc", "llc_std_error"))
        known = np.isfinite(value)
        ax.plot(step[known], value[known], color=color, ls=dash, lw=1.3, marker=".", ms=3.5, label=name)
        ax.fill_between(step[known], (value - error)[known], (value + error)[known], color=color, alpha=0.18, lw=0)
    ax.set_ylabel("λ̂ of the part")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    tidy(ax)
