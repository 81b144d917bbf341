"""Noise strategies: (key, params) -> a pytree like params, with mean 0 and variance 1 in every entry.

Samplers of weak order 1 and 2, such as SGLD, need no more of noise than its first moments. Random bits are most of what
it costs: a normal number of 32 bits takes a sixth of the time of SGLD on a small network.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from sltjax.types import Params, RngKey

_SPREAD = 0.99998986  # of the normal quantiles at the middles of 2¹⁶ equal parts, so that `gaussian16` has variance 1


def gaussian(key: RngKey, params: Params) -> Params:
    """Standard normal entries, drawn in float32 whatever the parameters' dtype."""
    return optax.tree.random_like(key, params, sampler=jax.random.normal, dtype=jnp.float32)


def gaussian16(key: RngKey, params: Params) -> Params:
    """Standard normal entries of sixteen random bits each, at half the price: quantiles at the middles of 2¹⁶ parts.

    Their variance is 1, their fourth moment 2.9992, and none is larger than 4.33. Samplers that reject, whose law is
    exact, draw `gaussian`.
    """

    def normal(key: RngKey, shape: tuple[int, ...], dtype: Any) -> Array:
        words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // 2)), jnp.uint32)
        halves = _unpacked(words, 2, shape[-1]).astype(dtype)
        return math.sqrt(2) / _SPREAD * jax.lax.erf_inv((halves + 0.5) * 2.0**-15 - 1)

    return _drawn(key, params, normal)


def rademacher(key: RngKey, params: Params) -> Params:
    """±1 entries of one random bit each, close to free: the same second moment, for schemes of weak order 1."""

    def sign(key: RngKey, shape: tuple[int, ...], dtype: Any) -> Array:
        words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // 32)), jnp.uint32)
        return 2 * _unpacked(words, 32, shape[-1]).astype(dtype) - 1

    return _drawn(key, params, sign)


def _unpacked(words: Array, parts: int, length: int) -> Array:
    """Each word of the last axis as so many numbers of 32/parts bits, cut to `length`."""
    bits = 32 // parts
    each = words[..., None] >> (bits * jnp.arange(parts, dtype=jnp.uint32)) & jnp.uint32(2**bits - 1)
    each = each.astype(jnp.int32)  # whose conversion to floats is an instruction
    return each.reshape(*words.shape[:-1], -1)[..., :length]


def _drawn(key: RngKey, params: Params, sampler: Any) -> Params:
    """Entries in float32, drawn as arrays of at least one axis."""
    rows = jax.tree.map(lambda w: jnp.empty(jnp.shape(w) or (1,)), params)
    drawn = optax.tree.random_like(key, rows, sampler=sampler, dtype=jnp.float32)
    return jax.tree.map(lambda z, w: z.reshape(jnp.shape(w)), drawn, params)
