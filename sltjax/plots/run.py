"""Figures of a whole run: λ̂, loss and metrics over training, with the stages."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from sltjax.development import milestones, smooth
from sltjax.plots.drawing import (
    BLACK,
    BLUE,
    MOST_NAMED,
    ORANGE,
    SKY,
    VERMILLION,
    failures,
    legend,
    points,
    require,
    scale_steps,
    styles,
    tidy,
)

MOST_LINES = 20  # of a panel


def development(dataset: xr.Dataset, stages: pd.DataFrame | None = None, *, log_steps: bool | None = None) -> Figure:
    """Draw λ̂ over training with its smoothed curve and stages, and below it the loss and every metric of few numbers.

    The curve, from three estimates on, is that of `sltjax.development.smooth`, with a band of two standard deviations;
    its `milestones` are triangles, with bars as long as their intervals. Nothing is drawn across failed checkpoints but
    the band.

    Args:
        dataset: one run; `step`, `llc`, `llc_std_error` [checkpoint] are needed, `ok`, `status`, `loss`, `exact_llc`
            and variables with the attribute role = "metric" are drawn where present.
        stages: the table that `sltjax.stages` returns; transitions are shaded from onset to end and numbered, and
            the bar under each number goes from `onset_low` to `end_high`.
        log_steps: whether steps stand on a log(step + 1) axis; None: linear where they are evenly spaced over less
            than two decades.

    Raises:
        ValueError: if λ̂, its error or the steps are missing.
    """
    require(dataset, "step", "llc", "llc_std_error")
    panels = list(_panels(dataset))
    heights = [2.2] + [1.0] * len(panels)
    figure = Figure(figsize=(7.2, 1.35 * sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _llc(axes[0], dataset)
    for ax, name in zip(axes[1:], panels, strict=True):
        _panel(ax, dataset, name)
    for ax in axes:
        tidy(ax)
        _shade(ax, stages)
    _number(axes[0], stages)
    scale_steps(axes[-1], np.asarray(dataset["step"], float), log_steps)
    legend(axes[0])
    figure.align_ylabels(list(axes))
    return figure


def _panels(dataset: xr.Dataset) -> Iterator[str]:
    if "loss" in dataset:
        yield "loss"
    for name, variable in dataset.data_vars.items():
        few = variable.ndim < 2 or (variable.ndim == 2 and variable.shape[1] <= MOST_LINES)
        if variable.attrs.get("role") == "metric" and few and name not in ("loss", "exact_llc"):
            yield str(name)


def _llc(ax: Axes, dataset: xr.Dataset) -> None:
    step, llc, error = (np.asarray(dataset[name], float) for name in ("step", "llc", "llc_std_error"))
    if "exact_llc" in dataset:
        exact = np.asarray(dataset["exact_llc"], float)
        ax.plot(step, exact, drawstyle="steps-post", color="#444444", lw=1.0, label="exact λ", zorder=2)
    ok = np.asarray(dataset["ok"], bool) if "ok" in dataset else np.isfinite(llc)
    drawn = np.isfinite(llc)
    ax.plot(step, llc, color=BLUE, lw=0.8, alpha=0.55, zorder=3)
    points(ax, step, llc, error, drawn, ok)
    if (~drawn).any():
        failures(ax, step[~drawn])
    if np.count_nonzero(drawn & np.isfinite(error)) >= 3:
        limits = ax.get_ylim()
        _smoothed(ax, smooth(dataset), step)
        ax.set_ylim(limits)  # where checkpoints failed the band is wide: it does not set the scale
    ax.set_ylabel("learning\ncoefficient λ̂")


def _smoothed(ax: Axes, curve: xr.Dataset, step: np.ndarray) -> None:
    """The band at every checkpoint, failed ones too; between the first of them, far apart in log steps, it is vast."""
    place = np.log1p(step), np.log1p(curve["step"].to_numpy())
    mean, sd = (np.interp(*place, curve[name].to_numpy()) for name in ("mean", "sd"))
    ax.fill_between(step, mean - 2 * sd, mean + 2 * sd, color=BLUE, alpha=0.15, lw=0, label="smoothed ± 2 sd", zorder=1)
    found = milestones(curve)
    for kind, marker in (("maximum", "^"), ("minimum", "v")):
        of_kind = found[found["kind"] == kind]
        reach = np.abs(of_kind[["step_low", "step_high"]].to_numpy().T - of_kind["step"].to_numpy())
        if len(of_kind):
            style: dict[str, Any] = {
                "fmt": marker,
                "ms": 7,
                "color": VERMILLION,
                "capsize": 3,
                "elinewidth": 1.4,
                "zorder": 6,
            }
            ax.errorbar(of_kind["step"], of_kind["value"], xerr=reach, label=kind, **style)


def _panel(ax: Axes, dataset: xr.Dataset, name: str) -> None:
    step, values = np.asarray(dataset["step"], float), np.asarray(dataset[name], float)
    if values.ndim == 1:
        ax.plot(step, values, color=BLACK, lw=1.1, marker=".", ms=3)
    else:
        for k, (line, color, dash) in enumerate(zip(values.T, *styles(values.shape[1]), strict=True), start=1):
            ax.plot(step, line, color=color, ls=dash, lw=1.2, label=str(k))
        if values.shape[1] <= MOST_NAMED:
            ax.legend(
                frameon=False,
                fontsize=7,
                ncols=values.shape[1],
                loc="lower right",
                bbox_to_anchor=(1, 0.98),
                borderpad=0,
            )
    known = values[np.isfinite(values)]
    if name == "loss" and len(known) and 0 < 20 * known.min() < known.max():
        ax.set_yscale("log")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylabel(name.replace("_", "\n"))


def _shade(ax: Axes, stages: pd.DataFrame | None) -> None:
    if stages is None or stages.empty:
        return
    for row in stages.itertuples():
        ax.axvspan(row.onset, row.end, color=ORANGE if row.delta_llc > 0 else SKY, alpha=0.22, lw=0, zorder=0)
    for milestone in stages["to_step"][:-1]:
        ax.axvline(milestone, color="#888888", lw=0.7, ls=(0, (4, 3)), zorder=1)


def _number(ax: Axes, stages: pd.DataFrame | None) -> None:
    if stages is None or stages.empty:
        return
    for row in stages.itertuples():
        ax.plot(
            [row.onset_low, row.end_high],
            [1, 1],
            transform=ax.get_xaxis_transform(),
            color=BLACK,
            lw=1.2,
            marker="|",
            ms=6,
            clip_on=False,
        )
        middle = np.expm1((np.log1p(row.onset) + np.log1p(row.end)) / 2)
        place: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        ax.annotate(f"{row.stage}{row.kind}", (middle, 1), xycoords=ax.get_xaxis_transform(), fontsize=8, **place)
