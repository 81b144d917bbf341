"""Figures of the chains of a checkpoint: what they drew, and what the pilot of calibration saw."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from sltjax.calibration import Calibration
from sltjax.plots.drawing import (
    BLACK,
    BLUE,
    MOST_NAMED,
    ORANGE,
    VERMILLION,
    require,
    short,
    styles,
    tidy,
    with_error,
)

MOST_POINTS = 200  # of a line


def traces(dataset: xr.Dataset, *steps: int) -> Figure:
    """Draw ΔL along the draws of each chain, with each chain's mean, in a panel for each of the checkpoints at `steps`.

    Lines of many draws are drawn as means over stretches, so that the eye sees drift; the axis says of how many draws.

    Args:
        dataset: one run with `delta_loss` of shape [checkpoint, chain, draw].
        steps: the training steps of the checkpoints, at least one.

    Raises:
        ValueError: if `delta_loss` is missing, or no checkpoint has one of the steps.
    """
    require(dataset, "step", "delta_loss")
    known = np.asarray(dataset["step"])
    if not steps:
        raise ValueError("got no step, expected those of the checkpoints to draw, such as the last")
    for step in steps:
        if step not in known:
            nearest = known[np.argmin(np.abs(known - step))]
            raise ValueError(f"no checkpoint at step {step}; the nearest is at step {nearest}")
    columns = min(2, len(steps))
    rows = -(-len(steps) // columns)
    figure = Figure(figsize=(7.2, 0.5 + (2.5 if columns == 1 else 1.75) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, step in zip(axes.flat, steps, strict=False):
        checkpoint = dataset.isel(checkpoint=int(np.flatnonzero(known == step)[0]))
        spread = f", R-hat {float(checkpoint['rhat']):.3f}" if "rhat" in dataset else ""
        ax.set_title(f"step {step:,}{spread}", fontsize=10)
        _chains(ax, np.asarray(checkpoint["delta_loss"]))
    for ax in axes.flat[len(steps) :]:
        ax.set_visible(False)
    for ax in axes.flat[: len(steps) - columns]:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$\Delta L$")
    num_chains = dataset.sizes["chain"]
    if num_chains <= 2 * MOST_NAMED:
        lines = axes[0, 0].get_legend_handles_labels()
        figure.legend(*lines, frameon=False, ncols=min(4, num_chains), fontsize=8, loc="outside lower center")
    return figure


def _chains(ax: Axes, values: np.ndarray) -> None:
    """The draws of each chain, [chain, draw], and their means."""
    width = max(1, values.shape[1] // MOST_POINTS)
    place, stretches = _stretches(values, width)
    for chain, (line, color, dash) in enumerate(zip(stretches, *styles(len(values)), strict=True)):
        ax.plot(place, line, color=color, lw=0.7, alpha=0.8, label=f"chain {chain}")
        ax.axhline(values[chain].mean(), color=color, ls=dash, lw=1.4)
    ax.axhline(0, color=BLACK, lw=0.6)
    ax.set_xlabel("draw" if width == 1 else f"draw (means of {width})")
    ax.margins(x=0.01)
    tidy(ax)


def _stretches(draws: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over stretches of so many draws: their places among the draws, and [chain, stretch]."""
    whole = draws[:, : draws.shape[1] // width * width]
    means = whole.reshape(len(whole), -1, width).mean(axis=2)
    return (np.arange(means.shape[1]) + 0.5) * width - 0.5, means


def calibration(found: Calibration, checkpoint: int | None = None) -> Figure:
    """Draw what the pilot saw, and how the length was chosen from it, in a row a checkpoint.

    Args:
        found: as `sltjax.calibrate` returns it.
        checkpoint: which of those that it was calibrated on; None for all.

    Raises:
        ValueError: no pilot ran, because nothing was left to choose.
    """
    if found.pilot_draws is None:
        raise ValueError("no pilot ran, since all numerics were given; leave num_draws or thin to be chosen")
    every = [k for k, step in enumerate(found.steps) if step not in found.steps[:k]] or range(len(found.pilot))
    rows = every if checkpoint is None else [checkpoint]
    figure = Figure(figsize=(7.2, 0.4 + 2.8 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(1.25, 1))
    for (left, right), row in zip(axes, rows, strict=True):
        _pilot(left, found, row)
        _lengths(right, found, row)
        if len(found.pilot) > 1 and found.steps:
            left.set_title(f"Pilot at step {found.steps[row]:,}", fontsize=10)
    for ax in axes.flat:
        tidy(ax)
    return figure


def _pilot(ax: Axes, found: Calibration, checkpoint: int) -> None:
    """The draws of each chain, averaged over stretches so that the eye sees drift, and their mean with its error."""
    draws, seen = np.asarray(found.pilot_draws)[checkpoint], found.pilot[checkpoint]
    width = max(1, draws.shape[1] // 25)
    place, stretches = _stretches(draws, width)
    for line, color, dash in zip(stretches, *styles(len(stretches)), strict=True):
        ax.plot((place + 0.5) * found.pilot_thin, line, color=color, ls=dash, lw=0.9, alpha=0.8)
    ax.axhspan(seen.value - seen.std_error, seen.value + seen.std_error, color=BLACK, alpha=0.12, lw=0)
    ax.axhline(seen.value, color=BLACK, lw=1.2, ls="--", label=f"λ̂ = {with_error(seen.value, seen.std_error)}")
    title = f"Pilot: {len(draws)} chains of {type(found.sampler).__name__}"
    ax.set_title(title, fontsize=10)
    ax.set(xlabel="step after burn-in", ylabel=rf"$n\beta\,\Delta L$, means of {width * found.pilot_thin} steps")
    ax.margins(x=0.01)
    ax.legend(frameon=False, fontsize=8, loc="best")


def _lengths(ax: Axes, found: Calibration, checkpoint: int) -> None:
    """The share of λ̂ that the error is, falling as 1/√steps from the pilot to the length chosen."""
    seen = found.pilot[checkpoint]
    steps = np.array([np.asarray(found.pilot_draws)[checkpoint].size * found.pilot_thin, found.drawing_steps], float)
    errors = 100 * np.array([abs(seen.std_error / seen.value), found.expected_error(checkpoint)])
    ax.plot(steps, errors, color=BLUE, lw=1.2, zorder=2)
    ax.plot(steps[:1], errors[:1], "o", mfc="white", mec=BLUE, label="pilot", zorder=3)
    ax.plot(steps[1:], errors[1:], "o", color=BLUE, label="chosen", zorder=3)
    ax.axhline(100 * found.error, color=VERMILLION, ls="--", lw=1.2, label="asked for")
    if found.heat is not None and found.heat[checkpoint] > 0:
        ax.axhline(100 * found.heat[checkpoint], color=ORANGE, ls=":", lw=1.6, label="heat of batches")
    ax.set(xscale="log", yscale="log", xlabel="chain-steps after burn-in", ylabel="standard error, % of λ̂")
    ax.set_title("Length", fontsize=10)
    ax.margins(0.12)
    percent = FuncFormatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(percent)
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(frameon=False, fontsize=8, loc="best")
