"""The mean of a recorded number with its error and its health: what every estimator ends in."""

import jax
import numpy as np
from jaxtyping import Float

from sltjax.diagnostics import first_failure, health
from sltjax.moments import mean
from sltjax.types import Estimate


def average(x: Float[np.ndarray, "chain draw"]) -> Estimate:
    """The mean over the chains that stayed finite.

    Returns:
        A chain that did not stay finite is left out and named in `health`; where none did, the value is NaN.
    """
    finite = first_failure(x) < 0
    per_chain = np.where(finite, np.mean(np.where(finite[:, None], x, 0.0), axis=1), np.nan)
    if not finite.any():
        return Estimate(np.nan, np.nan, per_chain, health(x, None))
    value = jax.device_get(mean(x[finite].astype(np.float32)))
    return Estimate(float(value.value), float(value.std_error), per_chain, health(x, value))
