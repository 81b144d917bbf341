"""What nβ and γ do to λ̂: they are part of its definition, and no numerics takes their effect away.

λ̂ is the property of a checkpoint alone where it does not depend on them. A curve over one of the two shows
where that is: the range over which λ̂ stays the same within errors, its plateau.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float

from sltjax.calibration import Asked, Stack, sample_to_error, settle
from sltjax.estimators import llc, unlocalised_llc
from sltjax.posterior import LocalPosterior, default_nbeta
from sltjax.sampling import alone, condition_all
from sltjax.types import Batch, Estimate, Loss, Params, RngKey, Sampler, Trace
from sltjax.validation import as_float32, count_examples

NBETA_FACTORS = 2.0 ** np.arange(-3, 4)
"""The default grid over nβ, in units of n / log n: octaves."""

GAMMAS = 10.0 ** np.arange(-2, 2.5, 0.5)
"""The default grid over γ: half decades."""

ERROR = 0.02
SIGMAS = 3.0  # a plateau compares all pairs of its points: at 2, one in twenty would disagree by chance

Grid: TypeAlias = float | Sequence[float] | np.ndarray | None


@struct.dataclass
class Plateau:
    """A range of nβ or γ over which λ̂ stays the same within errors.

    Attributes:
        low: its first grid point.
        high: its last grid point.
        value: λ̂ there, the mean of its points by their precision.
        std_error: of that, widened where the points scatter by more than their errors.
        slope: dλ̂/dlog₁₀x over the plateau, by weighted least squares.
        slope_error: its standard error.
        messages: what speaks against it, with a remedy; empty if nothing does.
    """

    low: float
    high: float
    value: float
    std_error: float
    slope: float
    slope_error: float
    messages: tuple[str, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Curve:
    """λ̂ on a grid over nβ at one γ, or over γ at one nβ.

    Attributes:
        nbeta: shape [grid].
        gamma: shape [grid].
        trace: what `sample` records, [grid, chain, draw], from which other estimators may be had afterwards.
        estimates: λ̂ at each grid point, with errors that are independent on full data.
    """

    nbeta: Float[np.ndarray, " grid"]
    gamma: Float[np.ndarray, " grid"]
    trace: Trace
    estimates: tuple[Estimate, ...]

    @property
    def axis(self) -> str:
        """Which of the two varies: "nbeta" or "gamma"."""
        return "nbeta" if self.nbeta[0] != self.nbeta[-1] else "gamma"

    @property
    def x(self) -> Float[np.ndarray, " grid"]:
        """What varies, ascending."""
        return self.nbeta if self.axis == "nbeta" else self.gamma

    @property
    def value(self) -> Float[np.ndarray, " grid"]:
        """λ̂ at each grid point; NaN where all chains failed."""
        return np.array([estimate.value for estimate in self.estimates])

    @property
    def std_error(self) -> Float[np.ndarray, " grid"]:
        """The Monte-Carlo standard error of each."""
        return np.array([estimate.std_error for estimate in self.estimates])

    @property
    def ok(self) -> Bool[np.ndarray, " grid"]:
        """Whether nothing is wrong with a point."""
        return np.array([estimate.health.ok for estimate in self.estimates])

    @property
    def messages(self) -> tuple[str, ...]:
        """What is wrong at which grid point, and what to do; empty if nothing is."""
        points = zip(self.x, self.estimates, strict=True)
        return tuple(f"{self.axis} = {x:.4g}: {said}" for x, found in points for said in found.health.messages)

    def at(self, index: int) -> Trace:
        """The draws of one grid point: name -> array [chain, draw]."""
        return _draws_at(self.trace, index)

    def unlocalised(self) -> tuple[Estimate, ...]:
        """λ̂ at each grid point with what γ takes from it put back, to first order; see `sltjax.localisation_bias`.

        Raises:
            ValueError: the curve was drawn without localisation, γ = 0.
        """
        points = enumerate(zip(self.nbeta, self.gamma, strict=True))
        return tuple(unlocalised_llc(self.at(i), float(nbeta), float(gamma)) for i, (nbeta, gamma) in points)

    def plateau(self, tolerance: float = 0.05) -> Plateau | None:
        """The widest range over which λ̂ is constant, where there is one of at least three grid points.

        It is a run of neighbours such that every two of its points, x < y, agree in

            |λ̂(y) − λ̂(x)| ≤ tolerance · ½(|λ̂(x)| + |λ̂(y)|) · log₁₀(y/x) + 3·√(σ(x)² + σ(y)²)

        so that no slope beyond the tolerance need be assumed, neither between neighbours nor over all of the run.
        Noise can hide a slope: unless the slope of the run is within the tolerance by two standard errors,
        `Plateau.messages` says so. Of runs as wide, the one known best is taken.

        Args:
            tolerance: the share of λ̂ by which it may change for each factor of ten in x.

        Raises:
            ValueError: the tolerance is negative.
        """
        if not tolerance >= 0:
            raise ValueError(f"tolerance: got {tolerance}, expected a share of λ̂ of at least 0, such as 0.05")
        agree = self._agree(tolerance)
        size = len(self.x)
        runs = [slice(a, b) for a in range(size) for b in range(a + 3, size + 1) if agree[a:b, a:b].all()]
        if not runs:
            return None
        return max(
            (self._plateau(run, tolerance) for run in runs),
            key=lambda p: (round(np.log(p.high / p.low), 6), -p.std_error),
        )

    def _agree(self, tolerance: float) -> Bool[np.ndarray, "grid grid"]:
        value, error, decades = self.value, self.std_error, np.log10(self.x)
        apart = np.abs(value[:, None] - value)
        size = (np.abs(value[:, None]) + np.abs(value)) / 2
        noise = SIGMAS * np.hypot(error[:, None], error)
        return apart <= tolerance * size * np.abs(decades[:, None] - decades) + noise  # False where not finite

    def _plateau(self, run: slice, tolerance: float) -> Plateau:
        x, value, error = self.x[run], self.value[run], self.std_error[run]
        precision = error**-2
        mean = np.average(value, weights=precision)
        chi_square = np.sum(precision * (value - mean) ** 2)
        std_error = np.sqrt(max(1.0, chi_square / (len(x) - 1)) / precision.sum())
        decades = np.log10(x) - np.average(np.log10(x), weights=precision)
        information = np.sum(precision * decades**2)
        slope, slope_error = np.sum(precision * decades * value) / information, information**-0.5
        doubts = tuple(self._doubts(run, float(slope), float(slope_error), tolerance * abs(float(mean))))
        low, high = float(x[0]), float(x[-1])
        return Plateau(low, high, float(mean), float(std_error), float(slope), float(slope_error), doubts)

    def _doubts(self, run: slice, slope: float, slope_error: float, allowed: float) -> list[str]:
        doubts = []
        if abs(slope) + 2 * slope_error > allowed:
            doubts.append(
                f"not shown to be flat: its slope is {slope:+.2g} ± {slope_error:.2g} for each factor of ten, where "
                f"{allowed:.2g} is allowed; raise num_draws"
            )
        if unwell := int(np.sum(~self.ok[run])):
            doubts.append(f"{unwell} of its {run.stop - run.start} points carry a warning: see Curve.messages")
        return doubts


def llc_curve(
    key: RngKey,
    loss: Loss,
    params: Params,
    data: Batch,
    *,
    nbeta: Grid = None,
    gamma: Grid = None,
    sampler: Sampler | None = None,
    batch_size: int | None = None,
    num_chains: int | None = None,
    num_draws: int | None = None,
    burn_in: int | None = None,
    thin: int | None = None,
    error: float = ERROR,
    max_chain_steps: int | None = None,
    max_seconds: float | None = None,
) -> Curve:
    """Estimate λ̂ at one checkpoint for a range of nβ at one γ, or of γ at one nβ.

    A sequence is the axis, a number is kept fixed. Where neither is a sequence, the one left at None is the axis, on
    its default grid, and nβ if both are. All grid points and chains run in one compiled program.

    Args:
        key: consumed.
        loss: (params, batch) -> per-example losses [batch], pure; never a mean.
        params: the checkpoint w*, any pytree of floating-point arrays; it is left untouched.
        data: pytree of arrays [n, ...].
        nbeta: as an axis, ascending; None for `NBETA_FACTORS` · n / log n, or for n / log n beside a grid over γ.
        gamma: as an axis, ascending; None for `GAMMAS` beside a fixed nβ, else for 1.
        sampler: hyperparameters are scalars, or arrays [grid]; None, here and below, for what `calibrate` chooses, one
            schedule for all grid points.
        batch_size: examples a step. Batches are shared by the grid points, which correlates their errors.
        num_chains: independent chains a grid point.
        num_draws: recorded draws a chain.
        burn_in: steps before the first draw.
        thin: steps a draw.
        error: the share of λ̂ to which the standard error is to come at every grid point.
        max_chain_steps: steps times chains that may be taken at a grid point, calibration included.
        max_seconds: the same in seconds for all of them, compilation apart.

    Returns:
        The estimates on the grid, and the draws behind them.

    Raises:
        ValueError, TypeError: an argument that cannot work; the message says what would.
    """
    params = as_float32(params)
    num_examples = count_examples(data)
    nbetas, gammas = _grid(nbeta, gamma, num_examples)
    posterior = LocalPosterior(loss, params, float(nbetas[0]), float(gammas[0]))
    asked = Asked(sampler, num_chains, num_draws, burn_in, thin, batch_size, error, max_chain_steps, max_seconds)
    size, cost = settle(asked, posterior, data)
    posteriors = _on_grid(condition_all(posterior.at(alone(params)), data, size), nbetas, gammas)
    points = np.arange(len(nbetas))  # noise of its own for each grid point
    trace = sample_to_error(key, Stack(posteriors, points, data, asked, size, cost))
    estimates = tuple(llc(_draws_at(trace, i), float(nbeta)) for i, nbeta in enumerate(nbetas))
    return Curve(nbetas, gammas, trace, estimates)


def _draws_at(trace: Trace, index: int) -> Trace:
    return jax.tree.map(lambda x: x[index], trace)


def _on_grid(posteriors: LocalPosterior, nbetas: np.ndarray, gammas: np.ndarray) -> LocalPosterior:
    """The one posterior that was conditioned, once for each grid point."""
    repeated = jax.tree.map(lambda x: jnp.repeat(x, len(nbetas), axis=0), posteriors)
    return dataclasses.replace(repeated, nbeta=jnp.float32(nbetas), gamma=jnp.float32(gammas))


def _grid(nbeta: Grid, gamma: Grid, num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """nβ and γ at each grid point; exactly one of them varies."""
    along_nbeta, along_gamma = (not isinstance(x, int | float | None) for x in (nbeta, gamma))
    if along_nbeta and along_gamma:
        raise ValueError("nbeta and gamma are both sequences, expected one of them as a number; draw a curve for each")
    if not along_nbeta and not along_gamma:
        if nbeta is None:
            nbeta = NBETA_FACTORS * default_nbeta(num_examples)
        elif gamma is None:
            gamma = GAMMAS
        else:
            raise ValueError(f"got nbeta = {nbeta} and gamma = {gamma}, expected a sequence for one: it is the axis")
    nbetas = np.atleast_1d(np.asarray(default_nbeta(num_examples) if nbeta is None else nbeta, float))
    gammas = np.atleast_1d(np.asarray(1.0 if gamma is None else gamma, float))
    name, axis = ("nbeta", nbetas) if nbetas.size > 1 or along_nbeta else ("gamma", gammas)
    rises = axis.ndim == 1 and axis.size > 1 and np.all(np.isfinite(axis)) and axis[0] > 0 and np.all(np.diff(axis) > 0)
    if not rises:
        raise ValueError(f"{name}: got {axis.tolist()}, expected at least two positive numbers in ascending order")
    return np.broadcast_to(nbetas, axis.shape).copy(), np.broadcast_to(gammas, axis.shape).copy()
