"""Noise strategies: (key, params) -> a pytree like params, with mean 0 and variance 1 in every entry."""

import jax
import jax.numpy as jnp
import optax

from sltjax.types import Params, RngKey


def gaussian(key: RngKey, params: Params) -> Params:
    """Standard normal entries, drawn in float32 whatever the parameters' dtype."""
    return optax.tree.random_like(key, params, sampler=jax.random.normal, dtype=jnp.float32)


def rademacher(key: RngKey, params: Params) -> Params:
    """±1 entries: the same second moment at a fraction of the price, for schemes of weak order 1."""
    return optax.tree.random_like(key, params, sampler=jax.random.rademacher, dtype=jnp.float32)
