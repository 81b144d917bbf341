"""Noise strategies: (key, params) -> a pytree like params, with mean 0 and variance 1 in every entry.

Samplers of weak order 1 and 2, such as SGLD, need no more of noise than its first moments. Noise is most of what they
add to the cost of a gradient, so normal numbers come from counters here, in one pass with what they are added to, in a
third of the time of `jax.random.normal`, which has the words behind them in memory first.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, UInt32

from sltjax.types import Params, RngKey

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_ROUNDS = 20
_PARITY = 0x1BD11BDA


def gaussian(key: RngKey, params: Params) -> Params:
    """Standard normal entries, in float32 whatever the parameters' dtype: quantiles of 2²⁴ equal parts, up to ±5.42."""
    leaves, structure = jax.tree.flatten(params)
    words = _words_of(key)
    return jax.tree.unflatten(structure, [_normal(words, jnp.shape(w), place) for place, w in enumerate(leaves)])


def _normal(key: UInt32[Array, "2"], shape: tuple[int, ...], stream: int) -> Float[Array, "..."]:
    """Normal numbers of the counters (0, stream), (1, stream), …: each by itself, wherever its device is."""
    number = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    word, _ = threefry(key, number, jnp.uint32(stream))
    uniform = (word.astype(jnp.int32) >> 8).astype(jnp.float32)
    return math.sqrt(2) * lax.erf_inv((uniform + 0.5) * 2.0**-23)


def threefry(key: UInt32[Array, "2"], first: UInt32[Array, "*n"], second: Array) -> tuple[Array, Array]:
    """Threefry-2×32 of 20 rounds (Salmon et al. 2011), the cipher behind jax's keys: two words for each counter."""
    schedule = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = first + schedule[0], second + schedule[1]
    for turn in range(_ROUNDS):
        x = x + y
        by = _ROTATIONS[turn % 8]
        y = ((y << by) | (y >> (32 - by))) ^ x
        if turn % 4 == 3:
            group = turn // 4 + 1
            x, y = x + schedule[group % 3], y + schedule[(group + 1) % 3] + jnp.uint32(group)
    return x, y


def _words_of(key: RngKey) -> UInt32[Array, "2"]:
    """A threefry key as its two words; two words of any other."""
    raw = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return jnp.asarray(raw) if raw.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)


def rademacher(key: RngKey, params: Params) -> Params:
    """±1 entries of one random bit each, close to free: the same second moment, for schemes of weak order 1."""

    def sign(key: RngKey, shape: tuple[int, ...], dtype: Any) -> Array:
        words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // 32)), jnp.uint32)
        each = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32) & 1).astype(jnp.int32)
        return 2 * each.reshape(*shape[:-1], -1)[..., : shape[-1]].astype(dtype) - 1

    rows = jax.tree.map(lambda w: jnp.empty(jnp.shape(w) or (1,)), params)
    drawn = optax.tree.random_like(key, rows, sampler=sign, dtype=jnp.float32)
    return jax.tree.map(lambda z, w: z.reshape(jnp.shape(w)), drawn, params)
