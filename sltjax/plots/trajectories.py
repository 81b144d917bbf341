"""The figure of how outputs move over training, in the planes of their principal components."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import FuncNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from sltjax.plots.drawing import BLACK, VERMILLION, reads_better_in_log, require, short, step_ticks, tidy

_MARKERS = "osD^vP<>"
_STEPS = ListedColormap(colormaps["viridis"](np.linspace(0, 0.9, 256)))
"""Even in lightness, so that print keeps the order, without the yellow that paper swallows."""


def trajectories(
    found: xr.Dataset,
    stages: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    *,
    pairs: Sequence[str] | None = None,
    evolute: bool = False,
    log_steps: bool | None = None,
) -> Figure:
    """Draw each pair of principal components as a plane: one curve a run, coloured by training step.

    Markers are checkpoints, of one shape a run, and lines the smoothed curves, from an open circle to a black dot.
    Stars stand where a curve is sharpest.

    Args:
        found: as `sltjax.essential_dynamics` returns it.
        stages: the table that `sltjax.stages` returns, or a dict of them by run; boundaries between stages are marked
            with their numbers.
        pairs: which planes, for instance ["1,2"]; None for all.
        evolute: whether to draw the centres of the osculating circles too, where they are near the curve. Axes
            then have one scale, so that circles are round.
        log_steps: whether colours go with log(step + 1); None: with the step where steps are evenly spaced over less
            than two decades.

    Raises:
        ValueError: `found` is something else, or has no such pair or run.
    """
    require(found, "position", "smoothed", "centre", "vertex", "explained_variance_ratio", "step")
    pairs, known = list(found["pair"].values) if pairs is None else list(pairs), list(found["pair"].values)
    runs = [str(run) for run in found["run"].values]
    tables = stages if isinstance(stages, Mapping) else dict.fromkeys(runs, stages)
    for what, asked, have in (("pair", pairs, known), ("run", list(tables), runs)):
        if not asked or set(asked) - set(have):
            raise ValueError(f"got {what}s {asked}, expected some of {[str(name) for name in have]}")
    step = np.asarray(found["step"], float)
    in_log = reads_better_in_log(step) if log_steps is None else log_steps
    norm = FuncNorm((np.log1p, np.expm1), *step[[0, -1]]) if in_log else Normalize(*step[[0, -1]])
    figure = Figure(figsize=(2.7 * len(pairs) + 1.1, 3.3), layout="constrained")
    axes = figure.subplots(1, len(pairs), squeeze=False)[0]
    for ax, pair in zip(axes, pairs, strict=True):
        for number, run in enumerate(runs):
            _curve(ax, found.sel(run=run, pair=pair), pair, norm, number)
            _boundaries(ax, found.sel(run=run, pair=pair), tables.get(run))
        _frame(ax, found, pair)
        if evolute:
            _evolute(ax, found.sel(pair=pair))
    _color_bar(figure, list(axes), norm, step)
    _legend(figure, found.sel(pair=pairs), runs, tables, evolute)
    return figure


def _curve(ax: Axes, run: xr.Dataset, pair: str, norm: Normalize, number: int) -> None:
    done = run["status"].values == "done"
    step = np.asarray(run["step"], float)[done]
    line = run["smoothed"].values[done]
    place = run["position"].sel(component=[int(name) for name in pair.split(",")]).values[done]
    pieces = LineCollection(list(np.stack([line[:-1], line[1:]], axis=1)), cmap=_STEPS, norm=norm, lw=1.1, zorder=2)
    pieces.set_array(np.expm1((np.log1p(step[1:]) + np.log1p(step[:-1])) / 2))
    ax.add_collection(pieces)
    color = _STEPS(norm(step))
    face = color if number % 2 == 0 else "white"
    marker = _MARKERS[number % len(_MARKERS)]
    ax.scatter(place[:, 0], place[:, 1], facecolors=face, edgecolors=color, s=16, marker=marker, lw=0.8, zorder=3)
    ax.plot(*line[0], "o", ms=7, mfc="white", mec=BLACK, zorder=4)
    ax.plot(*line[-1], "o", ms=7, color=BLACK, zorder=4)
    sharp = line[run["vertex"].values[done] == 1]
    ax.plot(*sharp.T, "*", ms=10, mfc="white", mec=VERMILLION, mew=1.2, ls="none", zorder=5)


def _boundaries(ax: Axes, run: xr.Dataset, table: pd.DataFrame | None) -> None:
    """A square and the numbers of the stages that meet, at each milestone between two."""
    if table is None or len(table) < 2:
        return
    done = run["status"].values == "done"
    step, line = np.asarray(run["step"])[done], run["smoothed"].values[done]
    for number, milestone in zip(table["stage"], table["to_step"][:-1], strict=False):
        place = line[np.argmin(np.abs(step - milestone))]
        ax.plot(*place, "s", ms=6, mfc="none", mec=BLACK, mew=1.0, zorder=6)
        ax.annotate(f"{number}|{number + 1}", place, (5, 5), textcoords="offset points", fontsize=8, zorder=7)


def _frame(ax: Axes, found: xr.Dataset, pair: str) -> None:
    share = dict(zip(found["component"].values.tolist(), found["explained_variance_ratio"].values, strict=True))
    first, second = (f"PC{name} ({100 * share[int(name)]:.3g} %)" for name in pair.split(","))
    ax.set(xlabel=first, ylabel=second)
    ax.margins(0.08)
    tidy(ax)
    ax.grid(axis="both", color="#DDDDDD", lw=0.6)


def _evolute(ax: Axes, plane: xr.Dataset) -> None:
    """The centres, within a square around the curves."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    half = max(right - left, top - bottom) / 2
    ax.set(xlim=((left + right) / 2 - half, (left + right) / 2 + half), aspect="equal")
    ax.set_ylim((bottom + top) / 2 - half, (bottom + top) / 2 + half)
    for line in plane["centre"].values:
        ax.plot(*line.T, color="#777777", lw=0.8, marker=".", ms=2.5, zorder=1)


def _color_bar(figure: Figure, axes: list[Axes], norm: Normalize, step: np.ndarray) -> None:
    mappable = ScalarMappable(norm, _STEPS)
    label = "training step" if type(norm) is Normalize else "training step (log(step + 1))"
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, aspect=25, label=label)
    if type(norm) is not Normalize:
        bar.set_ticks(step_ticks(step))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    bar.ax.minorticks_off()


def _legend(
    figure: Figure, found: xr.Dataset, runs: list[str], tables: Mapping[str, pd.DataFrame | None], evolute: bool
) -> None:
    def mark(label: str, marker: str, **style: Any) -> Line2D:
        return Line2D([], [], marker=marker, label=label, **({"ls": "none", "color": BLACK} | style))

    marks = [mark("start", "o", mfc="white", ms=7), mark("end", "o", ms=7)]
    if (found["vertex"] == 1).any():
        marks.append(mark("vertex: sharpest", "*", mfc="white", mec=VERMILLION, ms=10))
    if any(table is not None and len(table) > 1 for table in tables.values()):
        marks.append(mark("between stages", "s", mfc="none", ms=6))
    if evolute:
        marks.append(mark("centres of osculating circles", ".", color="#777777", ls="-", lw=0.8))
    if len(runs) > 1:
        faces = [BLACK, "white"]
        marks += [mark(f"run {run}", _MARKERS[k % len(_MARKERS)], ms=4, mfc=faces[k % 2]) for k, run in enumerate(runs)]
    figure.legend(
        handles=marks,
        loc="outside lower center",
        ncols=min(len(marks), 2 * found.sizes["pair"]),
        frameon=False,
        fontsize=8,
    )
