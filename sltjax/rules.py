"""By which rule steps are chosen: those of a sampler that is given, those of GHMC, or those that batch noise allows."""

from dataclasses import dataclass

import jax
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Float, Int

from sltjax.curvature import STEP_TIMES_CURVATURE, curvature_a_step_away, curvature_met
from sltjax.heat import gradient_noise, heat_of_noise, heat_share
from sltjax.posterior import LocalPosterior
from sltjax.samplers import GHMC, Newton, UnderdampedLangevin
from sltjax.threefry import as_threefry
from sltjax.types import Batch, RngKey, Sampler, Trace
from sltjax.validation import count_examples

FASTEST = 19.0  # (1 + a)/(1 − a) at persistence a = 0.9: beyond, stiff directions forget their energy too slowly
BOLDEST = 1.0  # h²·κ at the largest curvature that pilots meet; 4 is unstable, and chains that are longer meet more
SLOWEST = 1e-3
TOO_HOT, TOO_BOLD = 1.5, 1.25  # times what is allowed, beyond which a pilot is run again with slower steps
WORSE = 4.0  # what a chain that left the finite numbers counts as, times what is allowed


@struct.dataclass
class Pace:
    """How much slower chains must go than a look near the anchor suggests; 1 and 1 where it tells all.

    Attributes:
        noise: how many times as much batch noise they meet on their way.
        curvature: how many times as much curvature.
    """

    noise: float = struct.field(pytree_node=False, default=1.0)
    curvature: float = struct.field(pytree_node=False, default=1.0)


@dataclass(frozen=True)
class Fixed:
    """The rule for a sampler that needs nothing chosen beside what it learns by itself.

    Attributes:
        sampler: it.
    """

    sampler: Sampler

    def make(self, allowed: float, pace: Pace) -> Sampler:
        """The sampler."""
        return self.sampler


@dataclass(frozen=True)
class ByNoise:
    """The rule by which steps on batches follow from curvature and batch noise near the anchor.

    Attributes:
        square: h² there, [checkpoint]; NaN where no step size is stable.
        share: of λ̂ that batch noise would add at D = h², [checkpoint].
    """

    square: Float[np.ndarray, " checkpoint"]
    share: Float[np.ndarray, " checkpoint"]

    def make(self, allowed: float, pace: Pace) -> Sampler:
        """The sampler at which batch noise adds at most the share `allowed` to λ̂."""
        square, share = self.square / pace.curvature, self.share * pace.noise / pace.curvature
        ratio = np.clip(allowed / np.maximum(share, 1e-30), SLOWEST, FASTEST)
        ratio = np.where(np.isfinite(share), ratio, 1.0)
        persistence = np.maximum((ratio - 1) / (ratio + 1), 0.0)
        return UnderdampedLangevin(np.sqrt(square * np.minimum(ratio, 1.0)), persistence)

    def slower(self, pace: Pace, heat: Float[np.ndarray, " checkpoint"], trace: Trace) -> Pace:
        """The pace that a pilot asks for; the same, if it went well.

        Args:
            pace: at which it went.
            heat: what batch noise added at each checkpoint, in units of what is allowed.
            trace: of the pilot, with "curvature" [checkpoint].
        """
        stable = np.isfinite(self.square)  # elsewhere chains are lost, which is no reason to slow down here
        bold = self.square / pace.curvature * np.nan_to_num(trace["curvature"], nan=np.inf) / BOLDEST
        hottest, boldest = (float(np.clip(np.max(x, initial=0.0, where=stable), 0.0, WORSE)) for x in (heat, bold))
        return Pace(
            pace.noise * (hottest if hottest > TOO_HOT else 1.0),
            pace.curvature * (boldest if boldest > TOO_BOLD else 1.0),
        )


def default_rule(
    key: RngKey,
    posteriors: LocalPosterior,
    steps: Int[np.ndarray, " checkpoint"],
    data: Batch,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Fixed | ByNoise:
    """Measure the posteriors, and give the rule for the sampler used where none is given.

    Full data: `GHMC`, which starts from the curvature one step away from the anchor and adjusts itself. Batches:
    `UnderdampedLangevin` with h²·κ = 0.5 for the largest curvature κ that short chains meet, and a persistence at
    which batch noise, (D/8)·E|∇U_B − ∇U|² for D = h²(1 + a)/(1 − a), adds to λ̂ the share that the rule is given;
    below that of a = 0, a smaller h. Hyperparameters are [checkpoint].

    Raises:
        ValueError: every checkpoint's potential is infinite, or its curvature beyond measure, at all distances.
    """
    rough_key, met_key, heat_key = jax.random.split(as_threefry(key), 3)
    if batch_size == count_examples(data):
        curvature = curvature_a_step_away(rough_key, posteriors, steps, data, batch_size)
        _refuse_beyond_measure(curvature)
        return Fixed(GHMC(0.5, preconditioner=Newton(curvature, memory=1.0)))
    met, trace = curvature_met(met_key, posteriors, steps, data, batch_size, mesh)
    _refuse_beyond_measure(met.max(axis=0))
    square = STEP_TIMES_CURVATURE / met[1:].max(axis=0)
    noise = gradient_noise(heat_key, posteriors, trace["params"], data, batch_size)
    return ByNoise(square, heat_share({**trace, "heat": heat_of_noise(noise, square)}, posteriors))


def _refuse_beyond_measure(curvature: Float[np.ndarray, " checkpoint"]) -> None:
    if not np.isfinite(curvature).any():
        raise ValueError(
            "no step size is stable at the checkpoint: the loss is not finite around it, or its curvature is beyond "
            "measure; check the loss, or pass a sampler"
        )
