"""Figures: the development over a run; of one checkpoint the traces, the calibration, and what nβ and γ do to λ̂."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from sltjax.calibration import Calibration
from sltjax.definition import Curve

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""The palette of Okabe & Ito, which readers with any colour vision can tell apart."""

_LINES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
_DASHES = ("-", "--", "-.", ":")
_MOST_NAMED = 6


def development(dataset: xr.Dataset, stages: pd.DataFrame | None = None, *, log_steps: bool | None = None) -> Figure:
    """Draw λ̂ over training with its stages, and below it the loss and every vector metric.

    Args:
        dataset: one run; `step`, `llc`, `llc_std_error` [checkpoint] are needed, `ok`, `status`, `loss`, `exact_llc`
            and variables with the attribute role = "metric" are drawn where present.
        stages: the table that `sltjax.stages` returns; transitions are shaded from onset to end and numbered.
        log_steps: whether steps stand on a log(step + 1) axis; None: linear where they are evenly spaced over less
            than two decades.

    Raises:
        ValueError: if λ̂, its error or the steps are missing.
    """
    _require(dataset, "step", "llc", "llc_std_error")
    panels = list(_panels(dataset))
    heights = [2.2] + [1.0] * len(panels)
    figure = Figure(figsize=(7.2, 1.35 * sum(heights) + 0.5), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    _llc(axes[0], dataset)
    for ax, name in zip(axes[1:], panels, strict=True):
        _panel(ax, dataset, name)
    for ax in axes:
        _tidy(ax)
        _shade(ax, stages)
    _number(axes[0], stages)
    _scale(axes[-1], np.asarray(dataset["step"], float), log_steps)
    _legend(axes[0])
    figure.align_ylabels(list(axes))
    return figure


def traces(dataset: xr.Dataset, step: int) -> Figure:
    """Draw ΔL along the draws of each chain of the checkpoint at `step`, with each chain's mean.

    Args:
        dataset: one run with `delta_loss` of shape [checkpoint, chain, draw].
        step: the training step of the checkpoint.

    Raises:
        ValueError: if `delta_loss` is missing, or no checkpoint has this step.
    """
    _require(dataset, "step", "delta_loss")
    steps = np.asarray(dataset["step"])
    if step not in steps:
        nearest = steps[np.argmin(np.abs(steps - step))]
        raise ValueError(f"no checkpoint at step {step}; the nearest is at step {nearest}")
    values = np.asarray(dataset["delta_loss"])[int(np.flatnonzero(steps == step)[0])]
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    ax = figure.subplots()
    for chain, (line, color, dash) in enumerate(zip(values, *_styles(len(values)), strict=True)):
        ax.plot(np.arange(len(line)), line, color=color, lw=0.7, alpha=0.8, label=f"chain {chain}")
        ax.axhline(line.mean(), color=color, ls=dash, lw=1.4)
    ax.axhline(0, color=BLACK, lw=0.6)
    ax.set(
        xlabel="draw", ylabel=r"$\Delta L$", title=f"Loss above the checkpoint at step {step}, with each chain's mean"
    )
    ax.title.set_fontsize(10)
    ax.margins(x=0.01)
    _tidy(ax)
    if len(values) <= 2 * _MOST_NAMED:
        ax.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


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
        _tidy(ax)
    return figure


def _pilot(ax: Axes, found: Calibration, checkpoint: int) -> None:
    """The draws of each chain, averaged over stretches so that the eye sees drift, and their mean with its error."""
    draws, seen = np.asarray(found.pilot_draws)[checkpoint], found.pilot[checkpoint]
    width = max(1, draws.shape[1] // 25)
    whole = draws[:, : draws.shape[1] // width * width]
    stretches = whole.reshape(len(whole), -1, width).mean(axis=2)
    place = (np.arange(stretches.shape[1]) + 0.5) * width * found.pilot_thin
    for line, color, dash in zip(stretches, *_styles(len(stretches)), strict=True):
        ax.plot(place, line, color=color, ls=dash, lw=0.9, alpha=0.8)
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
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(frameon=False, fontsize=8, loc="best")


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
    _points(ax, curve.x, value, curve.std_error, drawn, curve.ok)
    if (~drawn).any():
        _failures(ax, curve.x[~drawn])
    nbeta, gamma = r"$n\beta$", r"$\gamma$"
    label, symbol, other, fixed = f"inverse temperature {nbeta}", nbeta, gamma, curve.gamma[0]
    if curve.axis == "gamma":
        label, symbol, other, fixed = f"localisation {gamma}", gamma, nbeta, curve.nbeta[0]
    title = f"How λ̂ depends on {symbol}, at {other} = {_short(float(f'{fixed:.4g}'))}"
    ax.set(xlabel=label, ylabel="learning\ncoefficient λ̂", title=title)
    ax.title.set_fontsize(10)
    _tidy(ax)
    _log_axis(ax, curve.x)
    _legend(ax)
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


def _log_axis(ax: Axes, x: np.ndarray) -> None:
    ax.set_xscale("log")
    ratio = (x[-1] / x[0]) ** 0.03
    ax.set_xlim(x[0] / ratio, x[-1] * ratio)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if x[-1] > 1000 * x[0] else (1.0, 2.0, 5.0)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _require(dataset: xr.Dataset, *names: str) -> None:
    missing = [name for name in names if name not in dataset.variables]
    if missing:
        raise ValueError(f"this figure needs {', '.join(names)}: {', '.join(missing)} not in the dataset")


def _panels(dataset: xr.Dataset) -> Iterator[str]:
    if "loss" in dataset:
        yield "loss"
    for name, variable in dataset.data_vars.items():
        if variable.attrs.get("role") == "metric" and variable.ndim <= 2 and name not in ("loss", "exact_llc"):
            yield str(name)


def _llc(ax: Axes, dataset: xr.Dataset) -> None:
    step, llc, error = (np.asarray(dataset[name], float) for name in ("step", "llc", "llc_std_error"))
    if "exact_llc" in dataset:
        exact = np.asarray(dataset["exact_llc"], float)
        ax.plot(step, exact, drawstyle="steps-post", color="#444444", lw=1.0, label="exact λ", zorder=2)
    ok = np.asarray(dataset["ok"], bool) if "ok" in dataset else np.isfinite(llc)
    drawn = np.isfinite(llc)
    ax.plot(step, llc, color=BLUE, lw=0.8, alpha=0.55, zorder=3)
    _points(ax, step, llc, error, drawn, ok)
    if (~drawn).any():
        _failures(ax, step[~drawn])
    ax.set_ylabel("learning\ncoefficient λ̂")


def _points(ax: Axes, x: np.ndarray, llc: np.ndarray, error: np.ndarray, drawn: np.ndarray, ok: np.ndarray) -> None:
    """λ̂ with error bars, hollow where there is a warning."""
    for keep, face, label in ((drawn & ok, BLUE, "λ̂ ± std. error"), (drawn & ~ok, "white", "λ̂ with a warning")):
        if keep.any():
            style: dict[str, Any] = {
                "fmt": "o",
                "ms": 3.6,
                "mfc": face,
                "mec": BLUE,
                "ecolor": BLUE,
                "elinewidth": 0.9,
                "zorder": 4,
            }
            ax.errorbar(x[keep], llc[keep], error[keep], label=label, **style)


def _failures(ax: Axes, steps: np.ndarray) -> None:
    bottom = ax.get_xaxis_transform()
    style: dict[str, Any] = {
        "ls": "none",
        "marker": "x",
        "ms": 6,
        "mew": 1.6,
        "color": VERMILLION,
        "clip_on": False,
        "zorder": 5,
    }
    ax.plot(steps, np.full(len(steps), 0.03), transform=bottom, label="failed", **style)


def _panel(ax: Axes, dataset: xr.Dataset, name: str) -> None:
    step, values = np.asarray(dataset["step"], float), np.asarray(dataset[name], float)
    if values.ndim == 1:
        ax.plot(step, values, color=BLACK, lw=1.1, marker=".", ms=3)
    else:
        for k, (line, color, dash) in enumerate(zip(values.T, *_styles(values.shape[1]), strict=True), start=1):
            ax.plot(step, line, color=color, ls=dash, lw=1.2, label=str(k))
        if values.shape[1] <= _MOST_NAMED:
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


def _styles(count: int) -> tuple[list[str], list[str]]:
    """Return `count` colours and dashes, both in turn, so that lines differ in print too."""
    colors = [_LINES[k % len(_LINES)] for k in range(count)]
    return colors, [_DASHES[k % len(_DASHES)] for k in range(count)]


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
        middle = np.expm1((np.log1p(row.onset) + np.log1p(row.end)) / 2)
        place: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        ax.annotate(f"{row.stage}{row.kind}", (middle, 1), xycoords=ax.get_xaxis_transform(), fontsize=8, **place)


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", lw=0.6)
    ax.set_axisbelow(True)


def _scale(ax: Axes, step: np.ndarray, log_steps: bool | None) -> None:
    if _reads_better_in_log(step) if log_steps is None else log_steps:
        ax.set_xscale("function", functions=(_log1p, np.expm1))
        low, high = np.log1p(step[[0, -1]])
        margin = 0.02 * (high - low) or 0.1
        ax.set_xlim(np.expm1(low - margin), np.expm1(high + margin))
        ax.xaxis.set_major_locator(FixedLocator(_ticks(step)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("training step (log(step + 1) axis)")
    else:
        ax.set_xlabel("training step")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _log1p(value: np.ndarray) -> np.ndarray:
    return np.log1p(np.maximum(value, -0.5))


def _reads_better_in_log(step: np.ndarray) -> bool:
    gaps = np.diff(step)
    even = len(gaps) > 0 and gaps.max() <= 1.5 * np.median(gaps)
    return not (even and step[-1] < 100 * max(np.median(gaps), step[0]))


def _ticks(step: np.ndarray) -> list[float]:
    decades = 10.0 ** np.arange(0, np.ceil(np.log10(step[-1] + 1)) + 1)
    mantissas = (1,) if step[-1] >= 1000 * max(step[0], 1) else (1, 2, 5)
    within = [m * decade for decade in decades for m in mantissas if step[0] <= m * decade <= step[-1]]
    return ([0.0] if step[0] == 0 else []) + [float(tick) for tick in within]


def with_error(value: float, error: float, *, sign: bool = False) -> str:
    """Return "value ± error" with the error at two significant figures and the value to the same place."""
    if not np.isfinite(value):
        return "—"
    plus = "+" if sign else ""
    if not np.isfinite(error) or error <= 0:
        return minus(f"{value:{plus}.4g}")
    places = max(0, 1 - int(np.floor(np.log10(error))))
    return minus(f"{value:{plus},.{places}f} ± {error:,.{places}f}")


def minus(text: str) -> str:
    """Return a number in words with a minus sign for its hyphen."""
    return text.replace("-", "−") if not text.startswith("-") or "e-" not in text else text


def _short(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _legend(ax: Axes) -> None:
    _, labels = ax.get_legend_handles_labels()
    if labels:
        ax.legend(frameon=False, fontsize=8, loc="best")
