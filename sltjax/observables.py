"""What may be recorded at a draw: functions (params, info) -> arrays, where info is what the step saw there."""

import jax.numpy as jnp
from jaxtyping import Array

from sltjax.types import Batch, Info, Loss, Observable, Params


def delta_loss(params: Params, info: Info) -> Array:
    """ΔL_B(w), an unbiased estimate of L_n(w) − L_n(w*): what λ̂ averages."""
    return info.measured.delta_loss


def distance(params: Params, info: Info) -> Array:
    """|w − w*|, the Euclidean distance to the anchor."""
    return info.measured.distance


def acceptance(params: Params, info: Info) -> Array:
    """The probability with which the step was accepted; 1 where a sampler rejects nothing."""
    return jnp.asarray(info.acceptance)


def losses(loss: Loss, examples: Batch) -> Observable:
    """Per-example losses ℓ_i(w) on fixed examples, [example]: what WAIC and covariances between examples are made of.

    Args:
        loss: (params, batch) -> per-example losses [batch].
        examples: pytree of arrays [example, ...], evaluated at every draw.
    """

    def observe(params: Params, info: Info) -> Array:
        return loss(params, examples)

    return observe
