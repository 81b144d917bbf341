"""Noise strategies: (key, params) -> a pytree like params, with mean 0 and variance 1 in every entry.

Samplers of weak order 1 and 2, such as SGLD, need no more of noise than its first moments. Noise is most of what they
add to the cost of a gradient: it is computed in one pass with what it is added to, in a third of the time of
`jax.random.normal`, which has the words behind its numbers in memory first.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt32

from sltjax.threefry import Words, cipher, numbers, once, words_of
from sltjax.types import Params, RngKey


def gaussian(key: RngKey, params: Params) -> Params:
    """Standard normal entries, in float32 whatever the parameters' dtype: quantiles of 2²⁴ equal parts, up to ±5.42."""
    return _like(key, params, _normal)


def rademacher(key: RngKey, params: Params) -> Params:
    """±1 entries of one random bit each, close to free: the same second moment, for schemes of weak order 1."""
    return _like(key, params, _signs)


def _like(key: RngKey, params: Params, draw: Callable[[Words, tuple[int, ...], int], Array]) -> Params:
    leaves, structure = jax.tree.flatten(params)
    words = words_of(key)
    return jax.tree.unflatten(structure, [draw(words, jnp.shape(w), stream) for stream, w in enumerate(leaves)])


def _words(key: Words, shape: tuple[int, ...], stream: int) -> UInt32[Array, "..."]:
    """A random word for each of the counters (0, stream), (1, stream) and so on."""
    word, _ = cipher(key, numbers(shape), jnp.uint32(stream))
    return word


def _normal(key: Words, shape: tuple[int, ...], stream: int) -> Float[Array, "..."]:
    word = _words(key, shape, stream)
    uniform = (word.astype(jnp.int32) >> 8).astype(jnp.float32)
    return math.sqrt(2) * lax.erf_inv((uniform + 0.5) * 2.0**-23)


def _signs(key: Words, shape: tuple[int, ...], stream: int) -> Float[Array, "..."]:
    *rows, last = shape or (1,)
    packed = (*rows, -(-last // 32))
    words = once(lambda key: _words(key, packed, stream))(key)
    bits = words[..., None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    signs = 2 * bits.reshape(*rows, 32 * packed[-1])[..., :last].astype(jnp.float32) - 1
    return signs.reshape(shape)
