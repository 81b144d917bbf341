"""What all figures share: colours, points with errors, axes of steps, and numbers with their errors."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

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
MOST_NAMED = 6


def require(dataset: xr.Dataset, *names: str) -> None:
    """Refuse a Dataset that lacks what a figure needs.

    Raises:
        ValueError: names what is missing.
    """
    missing = [name for name in names if name not in dataset.variables]
    if missing:
        raise ValueError(f"this figure needs {', '.join(names)}: {', '.join(missing)} not in the dataset")


def points(ax: Axes, x: np.ndarray, llc: np.ndarray, error: np.ndarray, drawn: np.ndarray, ok: np.ndarray) -> None:
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


def failures(ax: Axes, steps: np.ndarray) -> None:
    """Mark the checkpoints that have no λ̂, at the bottom."""
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


def styles(count: int) -> tuple[list[str], list[str]]:
    """Return `count` colours and dashes, both in turn, so that lines differ in print too."""
    colors = [_LINES[k % len(_LINES)] for k in range(count)]
    return colors, [_DASHES[k % len(_DASHES)] for k in range(count)]


def tidy(ax: Axes) -> None:
    """Leave of the frame what is read."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", lw=0.6)
    ax.set_axisbelow(True)


def scale_steps(ax: Axes, step: np.ndarray, log_steps: bool | None) -> None:
    """Lay an axis out in training steps or in log(step + 1); None: as reads better."""
    if reads_better_in_log(step) if log_steps is None else log_steps:
        ax.set_xscale("function", functions=(_log1p, np.expm1))
        low, high = np.log1p(step[[0, -1]])
        margin = 0.02 * (high - low) or 0.1
        ax.set_xlim(np.expm1(low - margin), np.expm1(high + margin))
        ax.xaxis.set_major_locator(FixedLocator(step_ticks(step)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("training step (log(step + 1) axis)")
    else:
        ax.set_xlabel("training step")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _log1p(value: np.ndarray) -> np.ndarray:
    return np.log1p(np.maximum(value, -0.5))


def reads_better_in_log(step: np.ndarray) -> bool:
    """Whether steps are spread over decades rather than evenly spaced."""
    gaps = np.diff(step)
    even = len(gaps) > 0 and gaps.max() <= 1.5 * np.median(gaps)
    return not (even and step[-1] < 100 * max(np.median(gaps), step[0]))


def step_ticks(step: np.ndarray) -> list[float]:
    """Return the powers of ten among steps, with 0 where they begin there, and 2 and 5 of each where they are few."""
    decades = 10.0 ** np.arange(0, np.ceil(np.log10(step[-1] + 1)) + 1)
    mantissas = (1,) if step[-1] >= 1000 * max(step[0], 1) else (1, 2, 5)
    within = [m * decade for decade in decades for m in mantissas if step[0] <= m * decade <= step[-1]]
    return ([0.0] if step[0] == 0 else []) + [float(tick) for tick in within]


def log_axis(ax: Axes, x: np.ndarray) -> None:
    """Lay an axis out in powers of ten."""
    ax.set_xscale("log")
    ratio = (x[-1] / x[0]) ** 0.03
    ax.set_xlim(x[0] / ratio, x[-1] * ratio)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if x[-1] > 1000 * x[0] else (1.0, 2.0, 5.0)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def legend(ax: Axes) -> None:
    """Name what is drawn, if anything has a name."""
    _, labels = ax.get_legend_handles_labels()
    if labels:
        ax.legend(frameon=False, fontsize=8, loc="best")


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


def short(value: float) -> str:
    """Return 12000 as 12k."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
