"""What may be recorded at a draw: functions (params, info) -> arrays, where info is what the step saw there."""

import jax.numpy as jnp
from jaxtyping import Array

from sltjax.types import Info, Params


def delta_loss(params: Params, info: Info) -> Array:
    """ΔL_B(w), an unbiased estimate of L_n(w) − L_n(w*): what λ̂ averages."""
    return info.measured.delta_loss


def distance(params: Params, info: Info) -> Array:
    """|w − w*|, the Euclidean distance to the anchor."""
    return info.measured.distance


def acceptance(params: Params, info: Info) -> Array:
    """The probability with which the step was accepted; 1 where a sampler rejects nothing."""
    return jnp.asarray(info.acceptance)
